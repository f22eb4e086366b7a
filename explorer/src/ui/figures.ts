// Figures of one column line up: the same unit and the same number of places for all of them.

const NOTHING = "–";

type Figure = number | null | undefined;

/** Decimal places that show two digits of the smallest of `values`, at most `most`. */
export function placesFor(values: readonly Figure[], most: number): number {
  const sizes = values.filter((value): value is number => value != null && value !== 0);
  if (sizes.length === 0) return 0;
  const least = Math.min(...sizes.map(Math.abs));
  if (least >= 100) return 0;
  return Math.min(most, Math.max(0, 1 - Math.floor(Math.log10(least))));
}

/** Writes a column's dollars: `0.0042`, and `<0.000001` for what would look like nothing. */
export function dollarsOf(values: readonly Figure[], most = 6): (value: Figure) => string {
  const places = Math.max(2, placesFor(values, most));
  const least = 10 ** -places;
  return (value) => {
    if (value == null) return NOTHING;
    if (value > 0 && value < least) return `<${least.toFixed(places)}`;
    return value.toLocaleString("en-US", {
      minimumFractionDigits: places,
      maximumFractionDigits: places,
    });
  };
}

/** A rating; without thousands apart, as ratings are written. */
export function points(value: Figure): string {
  return value == null ? NOTHING : String(Math.round(value));
}

/** A number with so many places, thousands apart. */
export function fixed(value: Figure, places = 0): string {
  if (value == null) return NOTHING;
  return value.toLocaleString("en-US", {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
  });
}
