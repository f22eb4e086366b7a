// Markdown text that grows, cut into blocks that no later text can change and one open block.
//
// Only the open block is parsed again as text arrives, so an answer costs what its length costs. Cuts
// depend on the text alone, never on how it arrived in pieces: a stream ends up as the whole would.

/** Text and what it is cut into; never changed, `append` makes another. */
export interface MarkdownText {
  /** Blocks that are done, a few to a page so that a new one copies little. */
  readonly pages: readonly (readonly string[])[];
  /** The block that may still grow. */
  readonly open: string;
  /** Length of the part of `open` that is whole lines and was looked at. */
  readonly seen: number;
  readonly kind: Kind;
  /** A carriage return at the very end, which belongs to what comes next. */
  readonly held: string;
}

type Kind =
  | { readonly name: "none" | "text" | "indented" | "html" }
  | { readonly name: "fence"; readonly mark: string; readonly size: number }
  | { readonly name: "raw"; readonly end: RegExp }
  | { readonly name: "list"; readonly indent: number; readonly size: number };

const BLOCKS_A_PAGE = 24;
/** A block longer than this goes on as another one, for a browser lays out each as a whole. */
const LONG_BLOCK = 4000;
/** A list longer than this goes on as another one, at an item. */
const LONG_LIST = 1500;
/** Characters after which it is clear whether a line begins a list item. */
const CLEAR = 12;

const NONE: Kind = { name: "none" };
const TEXT: Kind = { name: "text" };
export const EMPTY: MarkdownText = { pages: [], open: "", seen: 0, kind: NONE, held: "" };

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})/;
const ITEM = /^( {0,3})([-+*]|\d{1,9}[.)])( {1,4}|\t|$)/;
const HEADING = /^ {0,3}#{1,6}(?:[ \t]|$)/;
// HTML that may hold blank lines: CommonMark's kinds 1 to 5, with what ends each.
const RAW: readonly (readonly [RegExp, RegExp])[] = [
  [/^ {0,3}<(?:script|pre|style|textarea)(?:[\s>]|$)/i, /<\/(?:script|pre|style|textarea)>/i],
  [/^ {0,3}<!--/, /-->/],
  [/^ {0,3}<\?/, /\?>/],
  [/^ {0,3}<!\[CDATA\[/, /\]\]>/],
  [/^ {0,3}<![a-z]/i, />/],
];
// Each part can match in one way only, so that hostile rows cost no more than their length.
const TABLE = /^[^\n|]*\|[^\n]*\n(?=[^\n]*\|)(?=[^\n]*-)[|:\- \t]+\n/;
const HTML = /^ {0,3}<\/?[a-z][^<>]*>?/i;

/** The text with more of it. */
export function append(text: MarkdownText, more: string): MarkdownText {
  let piece = text.held + more;
  const held = piece.endsWith("\r") ? "\r" : "";
  if (held) piece = piece.slice(0, -1);
  if (piece.includes("\r")) piece = piece.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
  const cutter = new Cutter({ ...text, open: text.open + piece, held });
  // Without the end of a line, only a line that has just become clear can decide anything.
  cutter.run(piece.includes("\n"));
  return cutter.result();
}

export function whole(text: string): MarkdownText {
  return append(EMPTY, text);
}

class Cutter {
  private readonly done: string[] = [];
  private open: string;
  private seen: number;
  private kind: Kind;

  constructor(private readonly from: MarkdownText) {
    this.open = from.open;
    this.seen = from.seen;
    this.kind = from.kind;
  }

  run(lines: boolean): void {
    if (lines) {
      let end = this.open.indexOf("\n", this.seen);
      while (end >= 0) {
        end -= this.leave(end);
        for (let cut = this.cutLong(end); cut !== null; cut = this.cutLong(end)) end -= cut;
        const line = this.open.slice(this.seen, end);
        if (this.take(line)) end = this.cutAt(this.seen, end);
        this.seen = end + 1;
        if (this.after) this.cutAt(this.seen, 0);
        this.after = false;
        end = this.open.indexOf("\n", this.seen);
      }
    }
    this.leave(this.open.length);
    while (this.cutLong(this.open.length) !== null);
  }

  private after = false;

  /** Ends the open block before `position`; returns where `other` is in what remains. */
  private cutAt(position: number, other: number): number {
    let end = position;
    while (this.open[end - 1] === "\n") end -= 1;
    const block = this.open.slice(0, end);
    if (block.trim() !== "") this.done.push(block);
    this.open = this.open.slice(position);
    this.seen = 0;
    return other - position;
  }

  /** Takes a whole line; says whether a block ends before it, sets `after` if one ends with it. */
  private take(line: string): boolean {
    const kind = this.kind;
    const blank = line.trim() === "";
    if (kind.name === "fence") {
      const close = FENCE.exec(line);
      const rest = line.trim();
      if (close && rest.length >= kind.size && rest === kind.mark.repeat(rest.length)) {
        this.kind = NONE;
        this.after = true;
      }
      return false;
    }
    if (kind.name === "raw") {
      if (kind.end.test(line)) {
        this.kind = NONE;
        this.after = true;
      }
      return false;
    }
    if (blank) {
      if (kind.name !== "list" && kind.name !== "indented") {
        this.kind = NONE;
        this.after = true;
      }
      return false;
    }
    if (kind.name === "html") return false;
    if (kind.name === "list") return this.inList(kind, line);
    if (kind.name === "indented" && /^(?: {4}|\t)/.test(line)) return false;
    return this.begin(line, kind.name === "text");
  }

  /** A line that may begin another block; says whether it does so after an open one. */
  private begin(line: string, inText: boolean): boolean {
    const fence = FENCE.exec(line);
    if (fence?.[2]) {
      this.kind = { name: "fence", mark: fence[2].charAt(0), size: fence[2].length };
      return true;
    }
    if (HEADING.test(line)) {
      this.kind = NONE;
      this.after = true;
      return true;
    }
    for (const [start, end] of RAW) {
      if (!start.test(line)) continue;
      if (end.test(line.replace(start, ""))) {
        this.kind = NONE;
        this.after = true;
      } else this.kind = { name: "raw", end };
      return true;
    }
    const item = ITEM.exec(line);
    if (item && !inText) {
      this.kind = listOf(item);
      return true;
    }
    if (item) {
      // In a paragraph only some items begin a list; taken for one it is at worst cut later.
      this.kind = listOf(item);
      return false;
    }
    if (!inText && /^(?: {4}|\t)/.test(line)) {
      this.kind = { name: "indented" };
      return true;
    }
    if (!inText && HTML.test(line)) {
      this.kind = { name: "html" };
      return true;
    }
    this.kind = TEXT;
    return !inText;
  }

  private inList(kind: Kind & { name: "list" }, line: string): boolean {
    const indent = line.length - line.trimStart().length;
    const item = ITEM.exec(line);
    if (item && indent < kind.size && !/^ {0,3}([-*])(?: *\1){2,} *$/.test(line)) {
      const long = this.seen > LONG_LIST && indent <= kind.indent;
      this.kind = listOf(item);
      return long;
    }
    if (indent >= kind.size) return false;
    const fence = FENCE.exec(line);
    if (fence || HEADING.test(line)) return this.begin(line, false);
    if (
      this.seen > 0 &&
      /\n[ \t]*\n$/.test(this.open.slice(Math.max(0, this.seen - 80), this.seen))
    )
      return this.begin(line, false);
    return false;
  }

  /**
   * Ends a list or indented code as soon as the line up to `end`, which may be still written, is
   * clearly no part of it; returns how many characters that cut off.
   */
  private leave(end: number): number {
    const { name } = this.kind;
    if (name !== "list" && name !== "indented") return 0;
    if (end - this.seen < CLEAR) return 0;
    const line = this.open.slice(this.seen, this.seen + CLEAR);
    if (/^[ \t]/.test(line) || ITEM.test(line)) return 0;
    if (FENCE.test(line) || HEADING.test(line) || line.startsWith("<")) return 0;
    if (!this.afterBlank()) return 0;
    const cut = this.seen;
    this.cutAt(cut, cut);
    this.kind = NONE;
    return cut;
  }

  private afterBlank(): boolean {
    const before = this.open.slice(Math.max(0, this.seen - 80), this.seen);
    return /\n[ \t]*\n$/.test(before);
  }

  /**
   * Ends a block that would be too long with the line up to `end`: after a line, a sentence or a word;
   * returns by how much shorter what is open is now. A table goes on under the same head.
   */
  private cutLong(end: number): number | null {
    if (end <= LONG_BLOCK || this.kind.name === "fence" || this.kind.name === "list") return null;
    const start = this.open.slice(0, LONG_BLOCK);
    const after = (mark: string) => {
      const at = start.lastIndexOf(mark);
      return at < LONG_BLOCK / 2 ? 0 : at + mark.length;
    };
    const line = after("\n");
    const position = line || after(". ") || after(" ") || LONG_BLOCK - (endsInHalf(start) ? 1 : 0);
    const rows = line ? (TABLE.exec(start)?.[0] ?? "") : "";
    const head = rows.length < LONG_BLOCK / 4 ? rows : "";
    const seen = Math.max(0, this.seen - position);
    this.cutAt(position, 0);
    this.open = head + this.open;
    this.seen = seen + head.length;
    if (!line) this.kind = TEXT;
    return position - head.length;
  }

  result(): MarkdownText {
    const { open, seen, kind } = this;
    return { ...this.from, pages: paged(this.from.pages, this.done), open, seen, kind };
  }
}

function endsInHalf(text: string): boolean {
  return /[\uD800-\uDBFF]$/.test(text);
}

function listOf(item: RegExpExecArray): Kind {
  const indent = item[1]?.length ?? 0;
  const gap = item[3] === "\t" || item[3] === "" ? 1 : (item[3]?.length ?? 1);
  return { name: "list", indent, size: indent + (item[2]?.length ?? 1) + gap };
}

function paged(pages: MarkdownText["pages"], more: readonly string[]): MarkdownText["pages"] {
  if (more.length === 0) return pages;
  const result = pages.slice();
  for (let at = 0; at < more.length; ) {
    const last = result.at(-1);
    const room = last && last.length < BLOCKS_A_PAGE ? BLOCKS_A_PAGE - last.length : 0;
    const taken = more.slice(at, at + (room || BLOCKS_A_PAGE));
    if (last && room > 0) result[result.length - 1] = [...last, ...taken];
    else result.push(taken);
    at += taken.length;
  }
  return result;
}

/** The code of an open or whole fence that stands alone, or null. */
export function fenced(block: string): { language: string; code: string } | null {
  const end = block.indexOf("\n");
  const first = end < 0 ? block : block.slice(0, end);
  const fence = FENCE.exec(first);
  const mark = fence?.[2];
  if (!mark) return null;
  const indent = fence[1]?.length ?? 0;
  const language =
    first
      .slice(indent + mark.length)
      .trim()
      .split(/\s/)[0] ?? "";
  let code = end < 0 ? "" : block.slice(end + 1);
  const lastBreak = code.lastIndexOf("\n");
  const last = code.slice(lastBreak + 1).trim();
  const closes =
    last.length >= mark.length && last === mark.charAt(0).repeat(last.length) && last !== "";
  if (closes) code = lastBreak < 0 ? "" : code.slice(0, lastBreak);
  if (indent > 0) code = code.replace(new RegExp(`^ {1,${indent}}`, "gm"), "");
  return { language, code };
}

/**
 * How much of an open block to show parsed, when `parsed` characters of it are: all of it, or no more
 * than before. The rest is shown as it is meanwhile. Parsing at a share of growth keeps the sum of all
 * parses within a small multiple of the length.
 */
export function parsedLength(open: string, parsed: number): number {
  const grown = open.length - parsed;
  if (grown < 0) return open.length;
  if (grown === 0) return parsed;
  if (parsed > 1500) return grown >= parsed ? open.length : parsed;
  if (grown >= Math.max(12, parsed / 4)) return open.length;
  const line = open.indexOf("\n", parsed) >= 0;
  return line && grown >= parsed / 12 ? open.length : parsed;
}
