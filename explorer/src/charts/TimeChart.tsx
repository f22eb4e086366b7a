import { useMemo } from "react";
import {
  Area,
  CartesianGrid,
  ComposedChart,
  Line,
  ResponsiveContainer,
  Tooltip,
  XAxis,
  YAxis,
} from "recharts";
import { Figure, type Mark } from "./Figure";
import { type Axis, alone, axisFor, moment, tickTime, timeTicks } from "./scales";
import { Tip } from "./Tip";

export interface Series<T> extends Mark {
  key: keyof T & string;
  /** Holds for the whole step, drawn so. */
  stepped?: boolean;
  width?: number;
}

export const TICK = { fill: "var(--quiet)", fontSize: 12 };
export const AXIS_LINE = { stroke: "var(--line-strong)" };
export const Y_WIDTH = 56;

/** Figures over time; with the arrow keys one goes from step to step. */
export function TimeChart<T extends { t: number }>(props: {
  title: string;
  summary: string;
  points: T[];
  series: Series<T>[];
  from: number;
  to: number;
  step_s: number;
  height: number;
  /** Writes a figure, at the axis briefly. */
  write: (value: number | null | undefined) => string;
  writeTick?: (value: number) => string;
  /** May the axis go by powers of ten? */
  decades?: boolean;
  /** Are the figures whole numbers? */
  whole?: boolean;
}) {
  const { title, summary, points, series, from, to, step_s, height, write, decades, whole } = props;
  const writeTick = props.writeTick ?? write;
  const axis: Axis = useMemo(() => {
    const values = points.flatMap((point) =>
      series.map(({ key }) => point[key] as number | null | undefined),
    );
    return axisFor(values, decades ? 1.3 : Number.POSITIVE_INFINITY, whole ? 1 : 0);
  }, [points, series, decades, whole]);
  const lonely = useMemo(
    () =>
      Object.fromEntries(
        series.map(({ key }) => [key, alone(points, (point) => point[key] as number | null)]),
      ),
    [points, series],
  );
  const span = to - from;
  return (
    <Figure
      title={axis.kind === "log" ? `${title}, log scale` : title}
      summary={summary}
      height={height}
      {...(series.length > 1 ? { marks: series } : {})}
      head={["Time", ...series.map(({ name }) => name)]}
      rows={() =>
        points.toReversed().map((point) => ({
          key: String(point.t),
          cells: [
            moment(point.t, step_s),
            ...series.map(({ key }) => write(point[key] as number | null)),
          ],
        }))
      }
    >
      <ResponsiveContainer width="100%" height="100%">
        <ComposedChart
          data={points}
          margin={{ top: 6, right: 12, bottom: 0, left: 0 }}
          aria-label={`${title}; arrow keys go through time`}
        >
          <CartesianGrid stroke="var(--line)" vertical={false} />
          <XAxis
            dataKey="t"
            type="number"
            domain={[from, to]}
            ticks={timeTicks(from, to, 8)}
            tickFormatter={(t: number) => tickTime(t, span)}
            interval="equidistantPreserveStart"
            minTickGap={16}
            tick={TICK}
            axisLine={AXIS_LINE}
            tickLine={AXIS_LINE}
            allowDataOverflow
          />
          <YAxis
            type="number"
            scale={axis.kind}
            domain={axis.domain}
            ticks={axis.ticks}
            tickFormatter={writeTick}
            interval={0}
            width={Y_WIDTH}
            tick={TICK}
            axisLine={false}
            tickLine={false}
            allowDataOverflow
          />
          <Tooltip
            isAnimationActive={false}
            cursor={{ stroke: "var(--line-strong)" }}
            content={({ active, payload }) => {
              const point = payload?.[0]?.payload as T | undefined;
              if (!active || !point) return null;
              return (
                <Tip
                  title={moment(point.t, step_s)}
                  figures={series.map((mark) => ({
                    mark,
                    name: mark.name,
                    value: write(point[mark.key] as number | null),
                  }))}
                />
              );
            }}
          />
          {series.map(({ key, name, color, dash, filled, stepped, width }) =>
            filled ? (
              <Area
                key={key}
                dataKey={(point: T) => point[key] as number | null}
                name={name}
                type={stepped ? "stepAfter" : "linear"}
                stroke={color}
                strokeWidth={1}
                fill={color}
                fillOpacity={0.22}
                isAnimationActive={false}
                activeDot={false}
                dot={false}
              />
            ) : (
              <Line
                key={key}
                dataKey={(point: T) => point[key] as number | null}
                name={name}
                type={stepped ? "stepAfter" : "linear"}
                stroke={color}
                strokeWidth={width ?? 1.5}
                {...(dash ? { strokeDasharray: dash } : {})}
                isAnimationActive={false}
                activeDot={{ r: 3, strokeWidth: 0, fill: color }}
                dot={lonely[key]?.size ? dotsOf(lonely[key], color) : false}
              />
            ),
          )}
        </ComposedChart>
      </ResponsiveContainer>
    </Figure>
  );
}

/** Draws only the points that no line leads to. */
function dotsOf<T>(lonely: ReadonlySet<T>, color: string) {
  return ({ key, cx, cy, payload }: { key?: unknown; cx?: number; cy?: number; payload?: T }) =>
    payload !== undefined && lonely.has(payload) ? (
      <circle key={String(key)} cx={cx} cy={cy} r={2.5} fill={color} />
    ) : (
      <g key={String(key)} />
    );
}
