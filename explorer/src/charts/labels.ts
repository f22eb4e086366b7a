// Where the names of dots go, so that none lies on another.

export interface Dot {
  x: number;
  y: number;
  r: number;
  label: string;
}

export interface Label {
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
}

interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

const GAP = 4;
const HEIGHT = 14;

function meet(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** Whether a line straight up and down, as error bars are, goes through the box. */
function onBar(box: Box, bar: { x: number; top: number; bottom: number }): boolean {
  return box.left < bar.x && bar.x < box.right && box.top < bar.bottom && bar.top < box.bottom;
}

/**
 * A place for each dot's name: beside it, else above or below; null where there is no room.
 *
 * `bars` are the dots' error bars, `area` what the names must stay in.
 */
export function placeLabels(
  dots: readonly Dot[],
  bars: readonly { x: number; top: number; bottom: number }[],
  area: Box,
  widthOf: (label: string) => number,
): (Label | null)[] {
  const taken: Box[] = dots.map(({ x, y, r }) => ({
    left: x - r,
    right: x + r,
    top: y - r,
    bottom: y + r,
  }));
  return dots.map((dot, index) => {
    const width = widthOf(dot.label);
    const bar = bars[index];
    const above = Math.min(dot.y - dot.r, bar?.top ?? dot.y) - GAP;
    const below = Math.max(dot.y + dot.r, bar?.bottom ?? dot.y) + GAP + HEIGHT - 3;
    const tries: Label[] = [
      { x: dot.x + dot.r + GAP, y: dot.y + 4, anchor: "start" },
      { x: dot.x - dot.r - GAP, y: dot.y + 4, anchor: "end" },
      { x: dot.x, y: above, anchor: "middle" },
      { x: dot.x, y: below, anchor: "middle" },
    ];
    for (const label of tries) {
      const left =
        label.anchor === "start"
          ? label.x
          : label.anchor === "end"
            ? label.x - width
            : label.x - width / 2;
      const box = { left, right: left + width, top: label.y - HEIGHT + 3, bottom: label.y + 3 };
      const inside =
        box.left >= area.left &&
        box.right <= area.right &&
        box.top >= area.top &&
        box.bottom <= area.bottom;
      if (
        !inside ||
        taken.some((other) => meet(box, other)) ||
        bars.some((other) => onBar(box, other))
      )
        continue;
      taken.push(box);
      return label;
    }
    return null;
  });
}
