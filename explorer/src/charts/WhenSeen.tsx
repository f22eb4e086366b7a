import { type ReactNode, useEffect, useRef, useState } from "react";

const NEAR = "400px 0px";

/** Draws what is in sight, or nearly so: a page of charts costs as much as those one looks at. */
export function WhenSeen(props: {
  className?: string | undefined;
  height: number;
  children: ReactNode;
}) {
  const { className, height, children } = props;
  const place = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (place.current === null) return;
    const observer = new IntersectionObserver(
      (entries) => setSeen(entries.at(-1)?.isIntersecting === true),
      { rootMargin: NEAR },
    );
    observer.observe(place.current);
    return () => observer.disconnect();
  }, []);
  return (
    <div ref={place} className={className} style={{ height }}>
      {seen && children}
    </div>
  );
}
