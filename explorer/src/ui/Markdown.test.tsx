import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, it, vi } from "vitest";
import { Markdown } from "./Markdown";
import { append, EMPTY, fenced, type MarkdownText, parsedLength, whole } from "./markdownText";

// Hostile texts take their time on a busy machine.
vi.setConfig({ testTimeout: 30_000 });

const html = (text: string) => renderToStaticMarkup(<Markdown text={whole(text)} />);

function inPieces(text: string, sizes: readonly number[]): MarkdownText {
  let result = EMPTY;
  for (let at = 0, step = 0; at < text.length; step++) {
    const size = sizes[step % sizes.length] as number;
    result = append(result, text.slice(at, at + size));
    at += size;
  }
  return result;
}

const blocks = (text: MarkdownText) => [...text.pages.flat(), text.open];

const RICH = `# Birds

A **wren** is \`small\`.
It sings, see [here](https://example.org/a?b=1&c=2).

Before a list:
- one
- two
  more of two

  \`\`\`py
  inside = 1

  x
  \`\`\`
- three

* * *

1. first

2. second
   - deep
# Next at once
\`\`\`python
def f():

    return "<b>"   # - no list

\`\`\`
After it.

| a | b |
|---|--:|
| 1 | 2 |

> said
> so

    indented

    code

End ~~not~~.
<!-- a

comment --> and
last`;

describe("hostile text", () => {
  it("shows HTML as text", () => {
    const shown = html('<script>alert(1)</script>\n\nhi <img src=x onerror="alert(1)"> <b>x</b>');
    expect(shown).not.toMatch(/<(script|img|b)[ >]/);
    expect(shown).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
    expect(shown).toContain("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;");
  });

  it("links nowhere but to the web and to mail", () => {
    const bad = [
      "javascript:alert(1)",
      "data:text/html,x",
      "JaVaScRiPt:1",
      "/api/keys",
      "vbscript:1",
    ];
    for (const url of bad) expect(html(`[x](${url})`)).not.toContain("<a");
    expect(html("[x](https://a.example/)")).toBe(
      '<div class="' +
        /class="([^"]*)"/.exec(html("a"))?.[1] +
        '"><p dir="auto"><a href="https://a.example/" rel="noopener noreferrer nofollow" target="_blank">x</a></p></div>',
    );
  });

  it("loads no image", () => {
    const shown = html("![a cat](https://evil.example/track.png) ![](https://evil.example/2.png)");
    expect(shown).not.toContain("<img");
    expect(shown).toContain(">a cat</a>");
    expect(shown).toContain(">image</a>");
  });

  it("keeps null bytes and directions from doing harm", () => {
    expect(html("a\0b")).toContain("a\uFFFDb");
    expect(html("שלום \u202Eabc")).toContain('<p dir="auto">');
  });

  it("bears nesting without end", () => {
    for (const text of [">".repeat(50_000), "- ".repeat(20_000), "[".repeat(50_000)])
      expect(html(text).length).toBeGreaterThan(10_000);
    const stairs = Array.from({ length: 150 }, (_, at) => `${" ".repeat(at * 2)}- a`).join("\n");
    expect(html(stairs)).toContain("- a");
  });

  it("cuts what looks like a table, and runs of blank lines, in no time", () => {
    const rows = `${"|".repeat(2_000)}\n|${"-".repeat(1_990)}x\n`;
    const dashes = `${"-".repeat(2_100)}|\n${"-".repeat(1_800)}\n`;
    const breaks = `\`\`\`\na${"\n".repeat(100_000)}b\n\`\`\`\n`;
    for (const text of [rows.repeat(25), dashes.repeat(25), breaks, "\n".repeat(100_000)]) {
      // The best of some: something else may have the machine.
      let best = Number.POSITIVE_INFINITY;
      for (let tries = 0; tries < 5 && best >= 200; tries++) {
        const began = performance.now();
        whole(text);
        best = Math.min(best, performance.now() - began);
      }
      expect(best).toBeLessThan(200);
    }
  });
});

describe("growing text", () => {
  it("is cut the same, however it arrives", () => {
    for (const text of [RICH, RICH.replaceAll("\n", "\r\n")]) {
      const expected = blocks(whole(RICH));
      for (const sizes of [[1], [2], [3, 1, 7], [40, 1], [1000]])
        expect(blocks(inPieces(text, sizes))).toEqual(expected);
    }
  });

  it("is shown as the whole would be", () => {
    const uncut = { ...EMPTY, open: RICH };
    const shown = renderToStaticMarkup(<Markdown text={inPieces(RICH, [5])} />);
    expect(shown).toBe(renderToStaticMarkup(<Markdown text={uncut} />));
  });

  it("needs no parser for plain prose", () => {
    const prose = [
      "Birds sing: why? (They do!)  ",
      "Ein Satz, ein Wort; “so” – 10 %.",
      "שלום עולם.",
    ];
    // A link at the end keeps the parser in.
    for (const text of prose)
      expect(html(text)).toBe(
        html(`${text.trimEnd()}\n[](https://a.example)`).replace(/\n<a.*a>/, ""),
      );
  });

  it("cuts no code at its blank lines", () => {
    const code = "```js\na\n\n# b\n\n- c\n```";
    expect(blocks(whole(`x\n${code}\ny`)).filter(Boolean)).toEqual(["x", code, "y"]);
    expect(whole("~~~\na\n\nb").open).toBe("~~~\na\n\nb");
    expect(html("~~~\na\n\nb")).toContain("a\n\nb");
  });

  it("cuts long lists, and counts on", () => {
    const items = Array.from({ length: 200 }, (_, at) => `${at + 1}. item number ${at + 1}`);
    const text = whole(items.join("\n"));
    expect(blocks(text).length).toBeGreaterThan(2);
    expect(blocks(text).join("\n")).toBe(items.join("\n"));
    expect(html(items.join("\n")).match(/<li/g)?.length).toBe(200);
  });

  it("cuts long paragraphs and tables, however they arrive", () => {
    const sentence = "A wren sings at dawn, and again at dusk. ".repeat(400);
    const table = `| a | b |\n|---|---|\n${"| one | two |\n".repeat(900)}`;
    for (const text of [
      sentence,
      "x".repeat(9_000),
      `- a\n\n${sentence}\n\n${table}\nend`,
      table,
    ]) {
      const cut = blocks(whole(text));
      expect(Math.max(...cut.map((block) => block.length))).toBeLessThanOrEqual(4000);
      expect(blocks(inPieces(text, [7]))).toEqual(cut);
      expect(blocks(inPieces(text, [1000, 3]))).toEqual(cut);
    }
    expect(blocks(whole(sentence))[1]).toMatch(/^A wren/);
    expect(html(table).match(/<td/g)?.length).toBe(1800);
  });

  const TEXTS: Record<string, (size: number) => string> = {
    paragraphs: (size) => "Some words that **stand** here.\n\n".repeat(size / 33),
    "one line": (size) => "words ".repeat(size / 6),
    list: (size) => "- an item of a list\n".repeat(size / 20),
    table: (size) => `|a|b|\n|-|-|\n${"| cell | cell |\n".repeat(size / 16)}`,
    code: (size) => `\`\`\`\n${"let a = 1;\n".repeat(size / 11)}`,
  };
  it.each(Object.keys(TEXTS))("parses in proportion to its length: %s", (name) => {
    // Characters that the component would parse, were it drawn after each piece.
    const cost = (size: number) => {
      const text = (TEXTS[name] as (size: number) => string)(size);
      let sum = 0;
      let grown = EMPTY;
      let known = "";
      for (let at = 0; at < text.length; at += 4) {
        const done = grown.pages.flat().length;
        grown = append(grown, text.slice(at, at + 4));
        for (const block of grown.pages.flat().slice(done)) sum += fenced(block) ? 0 : block.length;
        const from = grown.open.startsWith(known) ? known.length : 0;
        const length = parsedLength(grown.open, from);
        if (length !== from && !fenced(grown.open)) sum += length;
        known = grown.open.slice(0, length);
      }
      return sum;
    };
    const small = cost(5_000);
    const large = cost(20_000);
    expect(large).toBeLessThan(20_000 * 14);
    expect(large).toBeLessThan(Math.max(1, small) * 4 * 1.5);
  });
});
