import { SiteError } from "../errors.js";
import type { ActivationCache } from "./cache.js";
import type { Table } from "./heat-map.js";

/**
 * Attention patterns or scores as tables, one for each head: queries in rows, keys in columns. A table is JSON as it
 * stands, and `heatMapHtml(title, tables, { firstRowOnTop: true })` draws them.
 *
 * @param site `blocks.3.attn.hook_pattern` or another of shape [R, H, T, T']
 * @param row of the cache. Default: 0
 * @throws {SiteError} if the site was not captured or is not one of attention.
 */
export async function attentionTables(cache: ActivationCache, site: string, row = 0): Promise<readonly Table[]> {
  const tensor = cache[site];
  const [rows = 0, heads = 0, queries = 0, keys = 0] = tensor?.shape ?? [];
  if (!tensor || !/hook_(pattern|attn_scores)$/.test(site) || row < 0 || row >= rows) {
    throw new SiteError({
      asked: `the attention patterns of row ${row} at ${site}`,
      found: `an activation [${tensor?.shape.join(",") ?? ""}]`,
      todo: "Give a site that ends in hook_pattern or hook_attn_scores, and one of its rows",
    });
  }
  const values = await tensor.data();
  const line = (head: number, query: number): number[] => {
    const start = ((row * heads + head) * queries + query) * keys;
    return [...values.subarray(start, start + keys)];
  };
  return Array.from({ length: heads }, (_, head) => ({
    title: `${site}, head ${head}, row ${row}`,
    rowTitle: "query",
    columnTitle: site.includes("cross_attn") || site.startsWith("text.") ? "text token" : "key",
    rows: Array.from({ length: queries }, (_, query) => `${query}`),
    columns: Array.from({ length: keys }, (_, key) => `${key}`),
    values: Array.from({ length: queries }, (_, query) => line(head, query)),
  }));
}
