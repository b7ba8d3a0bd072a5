/** A table of numbers with names for its rows and columns: JSON as it stands, and a picture by {@link heatMapSvg}. */
export interface Table {
  readonly title: string;
  readonly rowTitle: string;
  readonly columnTitle: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly values: readonly (readonly number[])[]; // [rows][columns]; NaN where there is nothing to show
}

const CELL = { width: 18, height: 16 }; // pixels
const LETTER = 6.2; // pixels of a letter of the labels
const MARGIN = { top: 44, bottom: 40, right: 16 };

/**
 * A self-contained SVG of a table: a cell's value shows when pointed at, and the range stands below. Tables that have both
 * signs are drawn from blue over white to red, symmetrically around 0; others from white to blue.
 *
 * The first row of the table is drawn last, so that layers go up; pass `firstRowOnTop` for attention patterns.
 */
export function heatMapSvg(table: Table, { firstRowOnTop = false }: { readonly firstRowOnTop?: boolean } = {}): string {
  const { rows, columns, values } = table;
  const left = 28 + LETTER * Math.max(0, ...rows.map((row) => row.length));
  const width = Math.max(left + CELL.width * columns.length, LETTER * table.title.length) + MARGIN.right;
  const bottom = MARGIN.top + CELL.height * rows.length;
  const scale = colourScale(values.flat());
  const y = (row: number): number => MARGIN.top + CELL.height * (firstRowOnTop ? row : rows.length - 1 - row);
  const cells = values.flatMap((line, row) =>
    line.map((value, column) => {
      const place = `x="${left + CELL.width * column}" y="${y(row)}" width="${CELL.width}" height="${CELL.height}"`;
      const note = `${rows[row] ?? row}, ${columns[column] ?? column}: ${Number.isNaN(value) ? "none" : value}`;
      return `<rect ${place} fill="${scale.colour(value)}"><title>${escape(note)}</title></rect>`;
    }),
  );
  const rowLabels = rows.map((label, row) => text(left - 4, y(row) + 12, label, 'text-anchor="end"'));
  const every = Math.ceil(Math.max(1, ...columns.map((label) => LETTER * (label.length + 1))) / CELL.width);
  const columnLabels = columns.flatMap((label, column) =>
    column % every === 0 ? [text(left + CELL.width * (column + 0.5), bottom + 12, label, 'text-anchor="middle"')] : [],
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${bottom + MARGIN.bottom}" ` +
      'font-family="sans-serif" font-size="10">',
    `<rect width="100%" height="100%" fill="#fff"/>`,
    text(8, 16, table.title, 'font-size="12" font-weight="bold"'),
    text(8, 34, `${table.rowTitle} × ${table.columnTitle}`, 'fill="#555"'),
    ...cells,
    ...rowLabels,
    ...columnLabels,
    text(left, bottom + 30, scale.legend, 'fill="#555"'),
    "</svg>",
    "",
  ].join("\n");
}

/** One HTML page of several tables, with nothing to load from elsewhere. */
export function heatMapHtml(
  title: string,
  tables: readonly Table[],
  options?: { readonly firstRowOnTop?: boolean },
): string {
  const figures = tables.map((table) => `<figure>${heatMapSvg(table, options)}</figure>`);
  return (
    `<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>${escape(title)}</title>\n` +
    `<h1>${escape(title)}</h1>\n${figures.join("\n")}\n</html>\n`
  );
}

interface ColourScale {
  readonly colour: (value: number) => string;
  readonly legend: string;
}

function colourScale(values: readonly number[]): ColourScale {
  const finite = values.filter(Number.isFinite);
  const low = finite.reduce((least, value) => Math.min(least, value), Infinity);
  const high = finite.reduce((most, value) => Math.max(most, value), -Infinity);
  const legend = finite.length === 0 ? "no values" : `from ${low.toPrecision(4)} to ${high.toPrecision(4)}`;
  if (low < 0 && high > 0) {
    const reach = Math.max(-low, high);
    return { legend: `${legend}; white is 0`, colour: (value) => shade(Math.abs(value) / reach, value > 0) };
  }
  const span = high - low || 1;
  return { legend, colour: (value) => shade((value - low) / span, false) };
}

/** White at 0; at 1 red or blue. Grey for what is no number. */
function shade(strength: number, red: boolean): string {
  if (Number.isNaN(strength)) return "#ddd";
  const fade = (end: number): number => Math.round(255 + (end - 255) * Math.min(1, strength));
  return red ? `rgb(${fade(178)},${fade(24)},${fade(43)})` : `rgb(${fade(33)},${fade(102)},${fade(172)})`;
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${x}" y="${y}" ${attributes}>${escape(content)}</text>`;
}

function escape(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
