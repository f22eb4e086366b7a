import type { Nodes, Root } from "mdast";
import { fromMarkdown } from "mdast-util-from-markdown";
import { gfmFromMarkdown } from "mdast-util-gfm";
import { gfm } from "micromark-extension-gfm";

const SYNTAX = [gfm()];
const TREE = [gfmFromMarkdown()];

/** A block beyond this is shown as it is: the parser's time grows faster than some texts do. */
const MOST_PARSED = 12_000;
const MOST_DEPTH = 60;
const DEEP = /(?:[>][ \t]*){24}|(?:(?:[-+*]|\d{1,9}[.)])[ \t]+){24}/;

/** One line of prose without anything that could mean something to Markdown. */
const PROSE = /^[^\s\d>#\-+*=_`~[\]<|\\&@\0][^*_`~[\]<|\\&@\0\n]*$/;
const ADDRESS = /https?:\/\/|www\./i;

/** Trees of late, since a block is drawn more than once. */
const CACHED = 64;
const cache = new Map<string, Root | null>();

/** The tree of one block, or null when it is to be shown as it is. */
export function treeOf(block: string): Root | null {
  const known = cache.get(block);
  if (known !== undefined) return known;
  const tree = parse(block);
  cache.set(block, tree);
  if (cache.size > CACHED) cache.delete(cache.keys().next().value as string);
  return tree;
}

function parse(block: string): Root | null {
  if (block.length > MOST_PARSED || DEEP.test(block)) return null;
  if (PROSE.test(block) && !ADDRESS.test(block)) {
    const text = { type: "text" as const, value: block.trimEnd() };
    return { type: "root", children: [{ type: "paragraph", children: [text] }] };
  }
  try {
    const root = fromMarkdown(block, { extensions: SYNTAX, mdastExtensions: TREE });
    return tooDeep(root, 0) ? null : root;
  } catch {
    // Nested so deeply that the parser gave up. It is still text.
    return null;
  }
}

function tooDeep(node: Nodes, depth: number): boolean {
  if (depth > MOST_DEPTH) return true;
  return "children" in node && node.children.some((child) => tooDeep(child, depth + 1));
}

/** The address if a link may lead there, else null. */
export function safeAddress(url: string): string | null {
  try {
    const { protocol } = new URL(url);
    return ["http:", "https:", "mailto:"].includes(protocol) ? url : null;
  } catch {
    // Relative addresses would lead into this Aviary, which no answer knows.
    return null;
  }
}
