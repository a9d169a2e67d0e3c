// What the service sends, as api.md has it.

export type Metadata = Record<string, unknown>;

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
  total?: number | null;
}

export interface Session {
  auth: "keys" | "local";
  owner: string | null;
  token: string | null;
}

export interface Collection {
  name: string;
  backbone: string;
  weights: string;
  dim: number;
  dtype: string;
  precision: string;
  space_id: string;
  image_count: number;
  created_at: string;
}

export interface Image {
  id: string;
  key: string;
  content_hash: string;
  width: number | null;
  height: number | null;
  format: string | null;
  metadata: Metadata;
  created_at: string;
}

export interface Fault {
  code: string;
  detail: string;
}

export interface Progress {
  total: number | null;
  done: number;
  embedded: number;
  reused: number;
  skipped: number;
  failed: number;
  cancelled: number;
  ignored: number;
  fraction?: number | null;
  images_per_s: number | null;
  eta_s: number | null;
}

export interface Job {
  id: string;
  kind: string;
  status: string;
  collection: string;
  params: Record<string, any>;
  progress: Progress;
  queue_position: number | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  expires_at: string | null;
  parent_id: string | null;
  error: Fault | null;
}

export interface Item {
  key: string;
  status: string;
  image_id: string | null;
  error: Fault | null;
}

export interface Ref {
  id: string;
  key: string;
}

export interface View {
  name: string;
  id: string;
  images: number;
}

export interface Neighbor extends Ref {
  rank: number;
  score: number;
  metadata: Metadata;
  duplicates?: (Ref & { score: number })[];
}

export interface SearchResult {
  query: Record<string, any>;
  top_k: number;
  neighbors: Neighbor[];
  ask?: Ref[] | null;
  view?: View | null;
}

export interface Cluster {
  label: number;
  size: number;
  medoid: Ref;
  cohesion: number;
  name?: string | null;
}

export interface Assignment extends Ref {
  label: number;
  distance: number;
}

export interface ClusterResult {
  n_clusters: number;
  metric: string;
  clusters: Cluster[];
  assignments: Assignment[];
  silhouettes?: unknown;
  view?: View | null;
}

export interface DuplicateMember extends Ref {
  score: number;
  /** None for the one that is kept. */
  reason: string | null;
  hash_bits: number | null;
  correlation: number | null;
  width: number | null;
  height: number | null;
}

export interface DuplicateGroup {
  group: number;
  size: number;
  keep: Ref & { because: string };
  members: DuplicateMember[];
}

export type Side = Ref | string;

export interface DuplicatesResult {
  threshold: number;
  images: number;
  duplicates: number;
  by_reason: Record<string, number>;
  groups: DuplicateGroup[];
  look: { a: Side; b: Side; score: number; hash_bits: number | null }[];
  histogram: { edges: number[]; counts: number[] };
  examples: { score: number; a: Side; b: Side }[];
}

export interface Verdict {
  a: Ref | null;
  b: Ref | null;
  verdict: "same" | "different";
}

export interface OutlierRow extends Ref {
  rank: number;
  score: number;
  nearest: Ref;
}

export interface SelectRow extends Ref {
  rank: number;
  distance: number;
}

export interface ClassifyRow extends Ref {
  label: string;
  probability: number;
}

export interface ClassifyResult {
  rows: ClassifyRow[];
  accuracy: unknown;
  classes: { label: string; examples: number; precision: number | null; recall: number | null }[];
}

export const TERMINAL = new Set(["succeeded", "partial", "failed", "cancelled"]);
