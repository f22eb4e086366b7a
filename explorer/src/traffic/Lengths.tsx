import { Bar, BarChart, CartesianGrid, ResponsiveContainer, Tooltip, XAxis, YAxis } from "recharts";
import { Figure } from "../charts/Figure";
import { greatest, linearAxis } from "../charts/scales";
import { AXIS_LINE, TICK, Y_WIDTH } from "../charts/TimeChart";
import { Tip } from "../charts/Tip";
import { count, short } from "../ui/format";
import { binName, filledBins, lengthsSaid } from "./series";
import type { LengthCount } from "./shapes";

/** How long prompts or answers are: how many of each length. */
export function Lengths(props: {
  title: string;
  bins: LengthCount[];
  /** How many there were in all, of whatever length. */
  requests: number;
  color: string;
  height: number;
}) {
  const { title, color, height } = props;
  const bins = filledBins(props.bins);
  const axis = linearAxis(0, bins.length === 0 ? 1 : greatest(bins.map((bin) => bin.count)), 3);
  return (
    <Figure
      title={title}
      summary={lengthsSaid(bins, props.requests)}
      height={height}
      head={["Tokens", "Requests"]}
      rows={() =>
        bins.map((bin) => ({ key: String(bin.from), cells: [binName(bin), count(bin.count)] }))
      }
    >
      <ResponsiveContainer width="100%" height="100%">
        <BarChart
          data={bins.map((bin) => ({ ...bin, name: binName(bin) }))}
          margin={{ top: 6, right: 12, bottom: 0, left: 0 }}
          barCategoryGap={1}
          aria-label={`${title}; arrow keys go through lengths`}
        >
          <CartesianGrid stroke="var(--line)" vertical={false} />
          <XAxis
            dataKey="name"
            tick={TICK}
            axisLine={AXIS_LINE}
            tickLine={false}
            interval="equidistantPreserveStart"
            minTickGap={10}
          />
          <YAxis
            domain={axis.domain}
            ticks={axis.ticks}
            tickFormatter={short}
            width={Y_WIDTH}
            tick={TICK}
            axisLine={false}
            tickLine={false}
          />
          <Tooltip
            isAnimationActive={false}
            cursor={{ fill: "var(--hover)" }}
            content={({ active, payload }) => {
              const bin = payload?.[0]?.payload as LengthCount | undefined;
              if (!active || !bin) return null;
              return (
                <Tip
                  title={`${binName(bin)} tokens`}
                  figures={[{ name: "Requests", value: count(bin.count) }]}
                />
              );
            }}
          />
          <Bar dataKey="count" fill={color} maxBarSize={72} isAnimationActive={false} />
        </BarChart>
      </ResponsiveContainer>
    </Figure>
  );
}
