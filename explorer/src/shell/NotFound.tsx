import { Link } from "@tanstack/react-router";
import { Page } from "./Page";

export function NotFound() {
  return (
    <Page title="Nothing here">
      <p>
        There is no page at this address. <Link to="/">Compare models</Link>
      </p>
    </Page>
  );
}
