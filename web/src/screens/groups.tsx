// Clusters as rows, from their middle to their edge.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { at, get, send } from "../api";
import { SelectionBar } from "../bar";
import { label } from "../deeds";
import { Drawer, thumbnail } from "../drawer";
import { Grid } from "../grid";
import { bins, HistogramSlider } from "../histogram";
import { latest, result, start } from "../jobs";
import { useKeys } from "../keyboard";
import { go, here, note, query } from "../route";
import { add, set } from "../selection";
import { changes, open as openTable, stored, table } from "../table";
import { Thumbnail } from "../tile";
import { complain, say } from "../toasts";
import { count, images } from "../words";
import type { Assignment, Cluster, ClusterResult, Job } from "../wire";
import { Waiting } from "./waiting";

const STRIP = 12;
// what the service tries by itself
const MOST_TRIED = 50;

export function Groups({ name, id }: { name: string; id: string }) {
  const job = useSignal<Job | null>(null);
  const found = useSignal<ClusterResult | null>(null);
  const fault = useSignal("");
  const none = useSignal(false);
  const drawer = useSignal("");
  const placed = useSignal<Assignment[]>([]);
  const open = query.value.get("group");

  useEffect(() => void openTable(name).catch(complain), [name]);
  useEffect(() => {
    let gone = false;
    found.value = job.value = null;
    placed.value = [];
    fault.value = "";
    none.value = false;
    (async () => {
      const shown = id ? await get<Job>(`/v1/jobs/${id}`) : await latest("cluster", name);
      if (gone) return;
      if (!shown) {
        none.value = true;
        return;
      }
      job.value = shown;
      const clusters = await result<ClusterResult>(shown);
      if (!gone) found.value = clusters;
    })().catch((error) => !gone && (fault.value = error.message));
    return () => void (gone = true);
  }, [name, id]);

  const begin = async (number: string) => {
    try {
      const made = await start("cluster", { collection: name, metric: "cosine", ...(await wanted(name, number)) });
      go(here(name, "groups", made.id));
    } catch (error) {
      complain(error);
    }
  };

  const members = useMemo(() => {
    const groups = new Map<number, Assignment[]>();
    const fresh = new Map(placed.value.map((each) => [each.id, each]));
    for (const each of [...(found.value?.assignments ?? []).filter((each) => !fresh.has(each.id)), ...fresh.values()]) {
      if (!stored(each.id)) continue;
      if (!groups.has(each.label)) groups.set(each.label, []);
      groups.get(each.label)!.push(each);
    }
    for (const some of groups.values()) some.sort((a, b) => a.distance - b.distance);
    return groups;
  }, [found.value, placed.value, table.value]);

  const rename = async (cluster: Cluster, next: string) => {
    try {
      await send("PATCH", `/v1/jobs/${job.value!.id}/clusters/${cluster.label}`, { name: next });
      found.value = { ...found.value!, clusters: found.value!.clusters.map((each) => (each.label === cluster.label ? { ...each, name: next } : each)) };
    } catch (error) {
      complain(error);
    }
  };

  if (open !== null && found.value && table.value?.whole) {
    const cluster = found.value.clusters.find((each) => String(each.label) === open);
    if (cluster) return <Inside name={name} cluster={cluster} members={members.get(cluster.label) ?? []} />;
  }
  return (
    <main class={drawer.value ? "page with-drawer" : "page"}>
      <div class="row between wrap">
        <h1>{found.value ? `${count(found.value.clusters.length)} groups` : "Groups"}</h1>
        <Begin begin={begin} />
      </div>
      {found.value && job.value && <Later job={job.value} place={(some) => (placed.value = some)} />}
      {fault.value && <p class="fault">{fault.value}</p>}
      {none.value && <p class="empty big">Groups gather pictures that look similar. Choose a number, or let the service choose one, and press Group.</p>}
      {!found.value && !none.value && !fault.value && <Waiting job={job.value} />}
      <ul class="groups">
        {found.value?.clusters.map((cluster) => (
          <Row key={cluster.label} name={name} cluster={cluster} members={members.get(cluster.label) ?? []} rename={rename} open={(image) => (drawer.value = image)} />
        ))}
      </ul>
      {drawer.value && <Drawer name={name} id={drawer.value} open={(image) => (drawer.value = image)} close={() => (drawer.value = "")} />}
      <SelectionBar name={name} />
    </main>
  );
}

/** Of few images the best silhouettes are those of pairs, which show no order: at most their root is tried. */
async function wanted(name: string, number: string): Promise<object> {
  if (number !== "auto") return { n_clusters: Number(number) };
  const { image_count } = await get<{ image_count: number }>(at.collection(name));
  return { n_clusters: "auto", max_clusters: Math.max(2, Math.min(MOST_TRIED, Math.floor(Math.sqrt(image_count)))) };
}

function Begin({ begin }: { begin: (number: string) => void }) {
  const number = useSignal("auto");
  return (
    <form
      class="row"
      onSubmit={(event) => {
        event.preventDefault();
        begin(number.value);
      }}
    >
      <label class="check">
        How many
        <input class="short" list="numbers" aria-label="How many groups: auto or a number" value={number.value} pattern="auto|[1-9][0-9]{0,4}" title="auto, or a number" onInput={(event) => (number.value = event.currentTarget.value)} />
      </label>
      <datalist id="numbers">
        {["auto", "5", "10", "20", "50"].map((each) => (
          <option key={each} value={each} />
        ))}
      </datalist>
      <button class="primary">Group</button>
    </form>
  );
}

/** Images that came after the clustering. */
function Later({ job, place }: { job: Job; place: (placed: Assignment[]) => void }) {
  const busy = useSignal(false);
  const send_ = async () => {
    busy.value = true;
    try {
      const made = await start("assign", { clustering_id: job.id });
      const placed = await result<{ assignments: Assignment[] }>(made);
      if (!placed.assignments.length) {
        say("No image came after this grouping.");
        return;
      }
      place(placed.assignments);
      add(placed.assignments.map((each) => each.id));
      const groups = new Set(placed.assignments.map((each) => each.label)).size;
      say(`${images(placed.assignments.length)} placed in ${groups} ${groups === 1 ? "group" : "groups"} and selected.`);
    } catch (error) {
      complain(error);
    } finally {
      busy.value = false;
    }
  };
  return (
    <p class="muted">
      Each row goes from the middle of its group to its edge.{" "}
      <button disabled={busy.value} title="Put images that were added after this grouping into its groups" onClick={() => void send_()}>
        Place images that came later
      </button>
    </p>
  );
}

/** Some members, evenly from the middle of the group to its edge. */
function strip(members: Assignment[]): Assignment[] {
  if (members.length <= STRIP) return members;
  return Array.from({ length: STRIP }, (_, i) => members[Math.round((i * (members.length - 1)) / (STRIP - 1))]);
}

function Row(props: { name: string; cluster: Cluster; members: Assignment[]; rename: (cluster: Cluster, name: string) => void; open: (id: string) => void }) {
  const { name, cluster, members, rename, open } = props;
  const text = useSignal(cluster.name ?? "");
  const ids = () => members.map((each) => each.id);
  const title = cluster.name || `Group ${cluster.label}`;
  const save = () => {
    const next = text.value.trim();
    if (next && next !== cluster.name) rename(cluster, next);
  };
  return (
    <li class="group" data-testid="group" data-size={cluster.size} data-label={cluster.label}>
      <div class="group-head">
        <a href={`?group=${cluster.label}`} onClick={(event) => { event.preventDefault(); note({ group: String(cluster.label) }); }}>
          <b>
            <bdi>{title}</bdi>
          </b>
        </a>
        <span class="muted" title="Cohesion: the mean cosine of its images to their middle, 1 where all are the same">
          {images(members.length)} · cohesion {cluster.cohesion.toFixed(2)}
        </span>
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            save();
          }}
        >
          <input aria-label={`Name of group ${cluster.label}`} placeholder="Name it" maxLength={200} value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} onBlur={save} />
        </form>
        <div class="row wrap">
          <button onClick={() => add(ids())}>Select</button>
          <button title="See all of it, and take out what does not belong" onClick={() => note({ group: String(cluster.label) })}>
            Split
          </button>
          <button disabled={!text.value.trim()} title={text.value.trim() ? "" : "Name the group first"} onClick={() => { save(); void label(name, ids(), text.value.trim()); }}>
            Label all
          </button>
        </div>
      </div>
      <ul class="strip" aria-label={`${title}, from the middle to the edge`}>
        {strip(members).map((each) => (
          <li key={each.id}>
            <button title={each.key} aria-label={each.key} onClick={() => open(each.id)}>
              <Thumbnail src={thumbnail(name, each.id)} alt="" />
            </button>
          </li>
        ))}
      </ul>
    </li>
  );
}

/** One group, all of it, to split: what is farther from the middle than a line is selected, by hand or by the slider. */
function Inside({ name, cluster, members }: { name: string; cluster: Cluster; members: Assignment[] }) {
  const drawer = useSignal("");
  const here_ = table.value!;
  void changes.value;
  const rows = useMemo(() => Uint32Array.from(members.map((each) => here_.row(each.id)).filter((row) => row !== undefined && !here_.hidden[row]) as number[]), [members, here_, changes.value]);
  useKeys([{ key: "Escape", does: "Back to the groups", run: () => note({ group: null }) }]);
  const distances = useMemo(() => bins(members.map((each) => each.distance)), [members]);
  const line = useSignal(distances.edges[distances.edges.length - 1]);
  const cut = (next: number) => {
    line.value = next;
    set(members.filter((each) => each.distance > next).map((each) => each.id));
  };
  return (
    <main class={drawer.value ? "browse with-drawer" : "browse"}>
      <div class="tools">
        <button onClick={() => note({ group: null })}>← Groups</button>
        <h1>
          <bdi>{cluster.name || `Group ${cluster.label}`}</bdi>
        </h1>
        <span class="muted">{images(rows.length)}, from the middle to the edge</span>
        <span class="spacer" />
        {members.length > 2 && <HistogramSlider edges={distances.edges} counts={distances.counts} value={line.value} name="Select what is farther than" testid="distance" input={cut} />}
      </div>
      <Grid table={here_} rows={rows} open={(id) => (drawer.value = id)} />
      {drawer.value && <Drawer name={name} id={drawer.value} open={(id) => (drawer.value = id)} close={() => (drawer.value = "")} />}
      <SelectionBar name={name} />
    </main>
  );
}

