import { join } from "node:path";

import { SafetensorsFile, type NamedTensor } from "../checkpoint/safetensors.js";
import { addVectors, emptyMoments, type Moments } from "./moments.js";
import type {
  CaptureIndex,
  CaptureRole,
  CaptureSettings,
  Label,
  StoredGroup,
  StoredItem,
  StoredRun,
  StoredSite,
} from "./store-format.js";

/** What a capture holds in memory between two shards: rows, or sums. */

/** What one clip leaves: its rows, role after role, for every site. */
export interface ClipRows {
  readonly stored: StoredItem;
  readonly runs: readonly Omit<StoredRun, "first">[];
  readonly values: ReadonlyMap<string, ReadonlyMap<CaptureRole, Float32Array>>; // by site and role: [rows, W]
}

/** Rows or sums that wait to be written. */
export interface Pending {
  readonly bytes: number;
  add(clip: ClipRows): void;
  tensors(): readonly NamedTensor[];
  readonly groups: readonly StoredGroup[];
}

/** Rows of a shard to be. */
export class PendingRows implements Pending {
  readonly groups: readonly StoredGroup[] = [];
  readonly #sites: readonly StoredSite[];
  readonly #dtype: "F32" | "F16";
  readonly #parts = new Map<string, Float32Array[]>();
  #bytes = 0;

  constructor(sites: readonly StoredSite[], dtype: CaptureSettings["dtype"]) {
    this.#sites = sites;
    this.#dtype = dtype === "f16" ? "F16" : "F32";
    for (const { site } of sites) this.#parts.set(site, []);
  }

  get bytes(): number {
    return this.#bytes;
  }

  add({ values }: ClipRows): void {
    for (const [site, byRole] of values) {
      for (const part of byRole.values()) {
        this.#parts.get(site)?.push(part);
        this.#bytes += part.byteLength;
      }
    }
  }

  tensors(): readonly NamedTensor[] {
    return this.#sites.map(({ site, shape }) => {
      const parts = this.#parts.get(site) ?? [];
      const width = shape.reduce((product, size) => product * size, 1);
      const length = parts.reduce((sum, part) => sum + part.length, 0);
      const values = (): Float32Array => concatenate(parts, length);
      return { name: site, shape: [length / width, ...shape], dtype: this.#dtype, values };
    });
  }
}

/** Sums over all clips so far. */
export class PendingMoments implements Pending {
  readonly #sites: readonly StoredSite[];
  readonly #by: string | null;
  readonly #kind: "variance" | "covariance";
  readonly #groups = new Map<string, MomentGroup>();

  private constructor(sites: readonly StoredSite[], kind: "variance" | "covariance", by: string | null) {
    this.#sites = sites;
    this.#kind = kind;
    this.#by = by;
  }

  /** The sums that are on disk, or none. */
  static async resume(
    directory: string,
    sites: readonly StoredSite[],
    { moments, by }: { readonly moments: "variance" | "covariance"; readonly by: string | null },
    { shards, groups }: CaptureIndex,
  ): Promise<PendingMoments> {
    const pending = new PendingMoments(sites, moments, by);
    const [shard] = shards;
    if (!shard) return pending;
    const file = await SafetensorsFile.open(join(directory, shard.file));
    try {
      for (const group of groups) pending.#group(group.role, group.label).items = group.items;
      for (const { site } of sites) {
        const sums = await file.doubles(`${site}.sum`);
        const squares = await file.doubles(`${site}.squares`);
        groups.forEach(({ role, label, count }, at) => {
          const group = pending.#group(role, label);
          const part = (all: Float64Array): Float64Array =>
            all.slice((at * all.length) / groups.length, ((at + 1) * all.length) / groups.length);
          const width = sums.length / groups.length;
          group.sums.set(site, { width, count, sum: part(sums), squares: part(squares) });
        });
      }
    } finally {
      await file.close();
    }
    return pending;
  }

  get bytes(): number {
    return 0; // sums don't grow: nothing has to be written to make room
  }

  get groups(): readonly StoredGroup[] {
    return [...this.#groups.values()].map(({ role, label, items, sums }) => {
      const count = [...sums.values()][0]?.count ?? 0;
      return { role, label, items, count };
    });
  }

  add({ stored, values }: ClipRows): void {
    const label = this.#by === null ? undefined : (stored.labels[this.#by] ?? null);
    const touched = new Set<MomentGroup>();
    for (const [site, byRole] of values) {
      for (const [role, vectors] of byRole) {
        const group = this.#group(role, label);
        const before = group.sums.get(site);
        if (before) group.sums.set(site, addVectors(before, vectors));
        touched.add(group);
      }
    }
    for (const group of touched) group.items++;
  }

  tensors(): readonly NamedTensor[] {
    const groups = [...this.#groups.values()];
    return this.#sites.flatMap(({ site, shape }) => {
      const width = shape.reduce((product, size) => product * size, 1);
      const all = (pick: (moments: Moments) => Float64Array) => (): Float64Array =>
        concatenate64(groups.flatMap(({ sums }) => (sums.has(site) ? [pick(sums.get(site) ?? NOTHING)] : [])));
      const squares = this.#kind === "variance" ? [groups.length, ...shape] : [groups.length, width, width];
      return [
        { name: `${site}.sum`, shape: [groups.length, ...shape], dtype: "F64", values: all(({ sum }) => sum) },
        { name: `${site}.squares`, shape: squares, dtype: "F64", values: all((moments) => moments.squares) },
      ] as const;
    });
  }

  #group(role: CaptureRole, label: Label | undefined): MomentGroup {
    const key = JSON.stringify([role, label]);
    const found = this.#groups.get(key);
    if (found) return found;
    const sums = new Map(
      this.#sites.map(({ site, shape }) => [
        site,
        emptyMoments(
          shape.reduce((product, size) => product * size, 1),
          this.#kind,
        ),
      ]),
    );
    const group: MomentGroup = { role, label, items: 0, sums };
    this.#groups.set(key, group);
    return group;
  }
}

interface MomentGroup {
  readonly role: CaptureRole;
  readonly label: Label | undefined;
  readonly sums: Map<string, Moments>;
  items: number;
}

const NOTHING: Moments = emptyMoments(0, "variance");

function concatenate(parts: readonly Float32Array[], length: number): Float32Array {
  const all = new Float32Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function concatenate64(parts: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
