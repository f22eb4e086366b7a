import type { List, Nodes, Root, RootContent, Table } from "mdast";
import { Fragment, memo, type ReactNode, useRef } from "react";
import { CodeBlock } from "./CodeBlock";
import styles from "./Markdown.module.css";
import { fenced, type MarkdownText, parsedLength } from "./markdownText";
import { safeAddress, treeOf } from "./markdownTree";

/** Shows Markdown that may still grow. Nothing in it becomes HTML or loads anything. */
export function Markdown({ text, growing = false }: { text: MarkdownText; growing?: boolean }) {
  return (
    <div className={styles.markdown}>
      {text.pages.map((page, index) => (
        <Page key={index} blocks={page} />
      ))}
      {growing ? <OpenBlock block={text.open} /> : <Block block={text.open} />}
    </div>
  );
}

const Page = memo(function Page({ blocks }: { blocks: readonly string[] }) {
  return (
    <>
      {blocks.map((block, index) => (
        <Block key={index} block={block} />
      ))}
    </>
  );
});

const Block = memo(function Block({ block }: { block: string }) {
  return block.trim() === "" ? null : renderBlock(block, "");
});

/** The last block while text arrives: parsed now and then, what came since is shown as it is. */
function OpenBlock({ block }: { block: string }) {
  const parsed = useRef({ of: "", length: 0, root: null as Root | null });
  const code = fenced(block);
  if (code) return <CodeBlock language={code.language} code={code.code} />;
  if (block.trim() === "") return null;
  const last = parsed.current;
  const known = block.startsWith(last.of) ? last.length : 0;
  const length = parsedLength(block, known);
  if (length !== known || known === 0) {
    const of = block.slice(0, length);
    parsed.current = { of, length, root: treeOf(of) };
  }
  const { root } = parsed.current;
  if (root === null) return <p className={styles.plain}>{block}</p>;
  return <Tree root={root} rest={block.slice(parsed.current.length)} />;
}

function renderBlock(block: string, rest: string): ReactNode {
  const code = fenced(block);
  if (code) return <CodeBlock language={code.language} code={code.code} />;
  const root = treeOf(block);
  if (root === null)
    return (
      <p className={styles.plain} dir="auto">
        {block}
      </p>
    );
  return <Tree root={root} rest={rest} />;
}

function Tree({ root, rest }: { root: Root; rest: string }) {
  return all(root.children, rest);
}

/** Children, the last of which takes `rest`: text that was not parsed yet. */
function all(nodes: readonly Nodes[], rest = ""): ReactNode {
  return nodes.map((node, index) => (
    <Fragment key={index}>{element(node, index === nodes.length - 1 ? rest : "")}</Fragment>
  ));
}

function element(node: Nodes, rest: string): ReactNode {
  switch (node.type) {
    case "paragraph":
      return (
        <p dir="auto">
          {all(node.children)}
          {rest}
        </p>
      );
    case "heading": {
      // Below the page's and the column's own headings.
      const Name = `h${Math.min(6, node.depth + 2)}` as "h3";
      return (
        <Name dir="auto" className={node.depth < 3 ? styles.large : styles.heading}>
          {all(node.children)}
          {rest}
        </Name>
      );
    }
    case "blockquote":
      return <blockquote dir="auto">{all(node.children, rest)}</blockquote>;
    case "list":
      return listElement(node, rest);
    case "table":
      return tableElement(node, rest);
    case "code":
      return <CodeBlock language={node.lang ?? ""} code={node.value + rest} />;
    case "thematicBreak":
      return <hr />;
    case "html":
      return (
        <p className={styles.plain} dir="auto">
          {node.value}
          {rest}
        </p>
      );
    case "footnoteDefinition":
      return (
        <div className={styles.footnote} dir="auto">
          <span>[{node.label ?? node.identifier}]</span>
          <div>{all(node.children, rest)}</div>
        </div>
      );
    case "definition":
      return null;
    default:
      return (
        <>
          {inline(node)}
          {rest}
        </>
      );
  }
}

function inline(node: Nodes): ReactNode {
  switch (node.type) {
    case "text":
      return node.value;
    case "emphasis":
      return <em>{inlines(node.children)}</em>;
    case "strong":
      return <strong>{inlines(node.children)}</strong>;
    case "delete":
      return <del>{inlines(node.children)}</del>;
    case "inlineCode":
      return <code>{node.value}</code>;
    case "break":
      return <br />;
    case "link":
      return link(node.url, inlines(node.children));
    case "image":
      // Never loaded: it would tell another host that somebody reads this.
      return link(node.url, node.alt || "image");
    case "linkReference":
      return inlines(node.children);
    case "imageReference":
      return node.alt ?? "";
    case "footnoteReference":
      return <sup>[{node.label ?? node.identifier}]</sup>;
    case "html":
      return node.value;
    default:
      return "children" in node ? all(node.children) : null;
  }
}

function inlines(nodes: readonly RootContent[]): ReactNode {
  return all(nodes);
}

function link(url: string, children: ReactNode): ReactNode {
  const address = safeAddress(url);
  if (address === null) return <span>{children}</span>;
  return (
    <a href={address} rel="noopener noreferrer nofollow" target="_blank">
      {children}
    </a>
  );
}

function listElement(list: List, rest: string): ReactNode {
  const last = list.children.length - 1;
  const items = list.children.map((item, index) => {
    const tail = index === last ? rest : "";
    const content = item.children.map((child, at) => {
      const end = at === item.children.length - 1 ? tail : "";
      // A tight list's items are lines, not paragraphs.
      const shown =
        child.type === "paragraph" && !list.spread && !item.spread ? (
          <span dir="auto">
            {all(child.children)}
            {end}
          </span>
        ) : (
          element(child, end)
        );
      return <Fragment key={at}>{shown}</Fragment>;
    });
    const task = item.checked != null;
    return (
      <li key={index} dir="auto" className={task ? styles.task : undefined}>
        {task && (
          <input type="checkbox" checked={item.checked === true} disabled aria-label="Task" />
        )}
        {content}
        {item.children.length === 0 && tail}
      </li>
    );
  });
  if (!list.ordered) return <ul>{items}</ul>;
  return <ol start={list.start ?? 1}>{items}</ol>;
}

function tableElement(table: Table, rest: string): ReactNode {
  const [head, ...body] = table.children;
  const cells = (row: Table["children"][number] | undefined, Cell: "th" | "td") =>
    row?.children.map((cell, index) => (
      <Cell key={index} dir="auto" style={{ textAlign: table.align?.[index] ?? undefined }}>
        {all(cell.children)}
      </Cell>
    ));
  return (
    <div className={styles.table}>
      <table>
        <thead>
          <tr>{cells(head, "th")}</tr>
        </thead>
        <tbody>
          {body.map((row, index) => (
            <tr key={index}>{cells(row, "td")}</tr>
          ))}
        </tbody>
      </table>
      {rest.trim() !== "" && <p className={styles.plain}>{rest.trimStart()}</p>}
    </div>
  );
}
