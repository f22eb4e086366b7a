import { useId, useMemo, useState } from "react";
import {
  CartesianGrid,
  ResponsiveContainer,
  Scatter,
  ScatterChart,
  usePlotArea,
  useXAxisScale,
  useYAxisScale,
  XAxis,
  YAxis,
} from "recharts";
import chart from "../charts/Chart.module.css";
import { placeLabels } from "../charts/labels";
import { axisFor, greatest, least, linearAxis, logAxis } from "../charts/scales";
import { fixed, points } from "../ui/figures";
import { rate, usd } from "../ui/format";
import { type Row, ratingScale } from "./board";

interface Spot {
  row: Row;
  cost: number;
  rating: number;
}

interface Placed extends Spot {
  x: number;
  y: number;
}

const AXIS = { stroke: "var(--line-strong)", tick: { fill: "var(--quiet)", fontSize: 12 } };
const LETTER_PX = 6.6;
const ROOM = 1.5;

/** How good a model is (rating, with its interval) against what an answer costs; dots by speed. */
export default function QualityPlot({ rows }: { rows: Row[] }) {
  const [active, setActive] = useState<Placed | null>(null);
  const note = useId();
  const { spots, left, cost, rating, fastest } = useMemo(() => plotOf(rows), [rows]);
  if (spots.length === 0)
    return (
      <p className="quiet">
        Nothing to plot yet: a model needs votes and answers with a cost to be placed here.
      </p>
    );
  return (
    <figure className={chart.figure} aria-label="Quality against cost" aria-describedby={note}>
      <div className={chart.space} style={{ height: 400 }}>
        <ResponsiveContainer width="100%" height="100%">
          <ScatterChart
            margin={{ top: 8, right: 28, bottom: 22, left: 4 }}
            accessibilityLayer={false}
          >
            <CartesianGrid stroke="var(--line)" />
            <XAxis
              type="number"
              dataKey="cost"
              scale={cost.kind}
              domain={cost.domain}
              ticks={cost.ticks}
              tickFormatter={(value: number) => `$${+value.toPrecision(2)}`}
              allowDataOverflow
              {...AXIS}
              label={{
                value: `Cost per answer${cost.kind === "log" ? ", log scale" : ""}`,
                position: "insideBottom",
                offset: -16,
                fill: "var(--quiet)",
                fontSize: 12,
              }}
            />
            <YAxis
              type="number"
              dataKey="rating"
              domain={rating.domain}
              ticks={rating.ticks}
              allowDataOverflow
              width={52}
              {...AXIS}
              label={{
                value: "Rating",
                angle: -90,
                position: "insideLeft",
                offset: 8,
                fill: "var(--quiet)",
                fontSize: 12,
              }}
            />
            <Scatter data={spots} shape={() => <g />} isAnimationActive={false} />
            <Dots spots={spots} fastest={fastest} active={active} onActive={setActive} />
          </ScatterChart>
        </ResponsiveContainer>
        {active && <Tip spot={active} />}
      </div>
      <figcaption id={note} className={chart.summary}>
        <span className={chart.sizes}>
          Dot area: speed
          <svg width="64" height="24" aria-hidden="true">
            <circle cx="8" cy="12" r={radius(fastest / 10, fastest)} fill="var(--line-strong)" />
            <circle cx="38" cy="12" r={11} fill="var(--line-strong)" />
          </svg>
          {rate(fastest / 10)} and {rate(fastest)} tokens/s.
        </span>{" "}
        Bars: 95 % interval. Hollow: not served.{" "}
        {left.length > 0 && `Not placed, without votes or cost: ${left.join(", ")}. `}
        The table above has the figures.
      </figcaption>
    </figure>
  );
}

function plotOf(rows: readonly Row[]) {
  const rated = rows.filter((row) => row.rating !== null && row.cost_per_answer_usd !== null);
  const costs = rated.map((row) => row.cost_per_answer_usd || null);
  const known = costs.filter((value) => value !== null);
  const rough = axisFor(costs, 1);
  // Room beside the first and the last dot.
  const cost = rough.kind === "log" ? logAxis(least(known) / ROOM, greatest(known) * ROOM) : rough;
  const shown = rated.filter((row) => cost.kind === "linear" || row.cost_per_answer_usd !== 0);
  const spots = shown.map((row) => ({
    row,
    cost: row.cost_per_answer_usd as number,
    rating: row.rating as number,
  }));
  const scale = ratingScale(shown) ?? { low: 0, high: 1 };
  return {
    spots,
    cost,
    rating: linearAxis(scale.low, scale.high, 5),
    left: rows.filter((row) => !shown.includes(row)).map((row) => row.model),
    fastest: Math.max(1, ...spots.map(({ row }) => row.tokens_per_s ?? 0)),
  };
}

function radius(speed: number | null, fastest: number): number {
  return speed === null ? 3 : Math.max(3, 11 * Math.sqrt(speed / fastest));
}

function Dots(props: {
  spots: Spot[];
  fastest: number;
  active: Placed | null;
  onActive: (spot: Placed | null) => void;
}) {
  const { spots, fastest, active, onActive } = props;
  const toX = useXAxisScale();
  const toY = useYAxisScale();
  const area = usePlotArea();
  if (!toX || !toY || !area) return null;
  const dots = spots.map((spot) => ({
    ...spot,
    x: toX(spot.cost) ?? 0,
    y: toY(spot.rating) ?? 0,
    r: radius(spot.row.tokens_per_s, fastest),
    label: spot.row.model,
  }));
  const bars = dots.map(({ row, x, rating }) => ({
    x,
    top: toY(row.high ?? rating) ?? 0,
    bottom: toY(row.low ?? rating) ?? 0,
  }));
  const box = {
    left: area.x,
    top: area.y,
    right: area.x + area.width,
    bottom: area.y + area.height,
  };
  const labels = placeLabels(dots, bars, box, (label) => label.length * LETTER_PX);
  return (
    <g>
      {dots.map((dot, index) => {
        const bar = bars[index];
        const label = labels[index];
        const on = active?.row.model === dot.row.model;
        return (
          // biome-ignore lint/a11y/noInteractiveElementToNoninteractiveRole: shows its label's figures.
          <g
            key={dot.label}
            className={chart.dot}
            role="img"
            aria-label={`${dot.label}: ${spoken(dot.row)}`}
            tabIndex={0}
            onFocus={() => onActive(dot)}
            onBlur={() => onActive(null)}
            onMouseEnter={() => onActive(dot)}
            onMouseLeave={() => onActive(null)}
          >
            {bar && (
              <path
                d={`M${bar.x} ${bar.top}V${bar.bottom}M${bar.x - 3} ${bar.top}h6M${bar.x - 3} ${bar.bottom}h6`}
                stroke="var(--line-strong)"
                strokeWidth={on ? 2 : 1}
              />
            )}
            <circle
              cx={dot.x}
              cy={dot.y}
              r={dot.r}
              fill={dot.row.served ? "var(--series-1)" : "var(--canvas)"}
              fillOpacity={dot.row.served ? 0.8 : 1}
              stroke="var(--series-1)"
              strokeWidth={on ? 2.5 : 1.25}
            />
            <circle cx={dot.x} cy={dot.y} r={Math.max(14, dot.r)} fill="transparent" />
            {label && (
              <text
                x={label.x}
                y={label.y}
                textAnchor={label.anchor}
                fontSize={12}
                fontWeight={on ? 600 : 400}
                fill="var(--text)"
              >
                {dot.label}
              </text>
            )}
          </g>
        );
      })}
    </g>
  );
}

function spoken(row: Row): string {
  const interval =
    row.low !== null && row.high !== null && `${points(row.low)} to ${points(row.high)}`;
  return [
    `rating ${points(row.rating)}${interval ? `, interval ${interval}` : ""}`,
    `${usd(row.cost_per_answer_usd)} per answer`,
    row.tokens_per_s !== null && `${rate(row.tokens_per_s)} tokens per second`,
  ]
    .filter(Boolean)
    .join("; ");
}

function Tip({ spot: { row, x, y } }: { spot: Placed }) {
  return (
    <div
      className={`${chart.tip} ${chart.floating}`}
      aria-hidden="true"
      style={{
        left: x,
        top: y < 120 ? y + 18 : y - 18,
        translate: `clamp(-${x}px, -50%, calc(100cqi - ${x}px - 100%)) ${y < 120 ? "0" : "-100%"}`,
      }}
    >
      <strong>{row.model}</strong>
      <dl>
        <dt>Rating</dt>
        <dd>{points(row.rating)}</dd>
        <dt>95 % interval</dt>
        <dd>
          {points(row.low)} – {points(row.high)}
        </dd>
        <dt>Per answer</dt>
        <dd>{usd(row.cost_per_answer_usd)}</dd>
        <dt>Per 1M tokens</dt>
        <dd>{usd(row.cost_per_million_tokens_usd)}</dd>
        <dt>Tokens/s</dt>
        <dd>{rate(row.tokens_per_s)}</dd>
        <dt>TTFT p50</dt>
        <dd>{row.ttft_p50_ms === null ? "–" : `${fixed(row.ttft_p50_ms)} ms`}</dd>
      </dl>
    </div>
  );
}
