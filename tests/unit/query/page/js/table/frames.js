/** Frames for tests. */

import { Frame } from "../../../../../../query/page/static/js/table/frame.js";

/** A frame of these columns, with the types that the server gives them. */
export function frameOf(columns) {
  const frame = new Frame();
  frame.append(
    Object.entries(columns).map(([name, values]) => ({
      name,
      type: name.startsWith("metrics") ? "double" : /_time$/.test(name) ? "int64" : "string",
      values,
    })),
  );
  return frame;
}
