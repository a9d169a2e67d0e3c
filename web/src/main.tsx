// The page: who one is, where one is, and the screen for it.
import { render } from "preact";
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { at, get, Problem, send, session, signedOut } from "./api";
import { resume } from "./jobs";
import * as keyboard from "./keyboard";
import { listen, path, route } from "./route";
import { Browse } from "./screens/browse";
import { Collections } from "./screens/collections";
import { Duplicates } from "./screens/duplicates";
import { Groups } from "./screens/groups";
import { Jobs, JobScreen } from "./screens/jobs";
import { Map_ } from "./screens/map";
import { Missing } from "./screens/missing";
import { Search } from "./screens/search";
import { Train } from "./screens/train";
import { enter } from "./selection";
import { Header } from "./shell";
import { complain, Toasts } from "./toasts";
import type { Session } from "./wire";

function App({ fault }: { fault: string }) {
  if (signedOut.value) return <SignIn />;
  if (!session.value) {
    return (
      <main class="page" aria-busy={!fault}>
        {fault && (
          <p class="fault" role="alert">
            {fault} <button onClick={() => location.reload()}>Try again</button>
          </p>
        )}
      </main>
    );
  }
  return (
    <>
      <Header />
      <Screen />
      <Toasts />
      <keyboard.Help />
    </>
  );
}

function Screen() {
  const { screen, collection, id } = route.value;
  const fault = useSignal({ of: "", text: "" });
  enter(collection);
  useEffect(() => {
    if (!collection) return undefined;
    const gone = new AbortController();
    get(at.collection(collection), gone.signal).catch((error) => {
      if (error instanceof Problem && error.code === "collection_not_found") fault.value = { of: collection, text: error.message };
    });
    return () => {
      gone.abort();
      fault.value = { of: "", text: "" };
    };
  }, [collection]);
  document.title = [collection || (screen === "collections" ? "" : screen), "imagekin"].filter(Boolean).join(" · ");
  if (fault.value.text && fault.value.of === collection) return <Missing title={collection} text={fault.value.text} to="/" where="All collections" />;
  switch (screen) {
    case "collections":
      return <Collections />;
    case "jobs":
      return <Jobs />;
    case "job":
      return <JobScreen id={id} />;
    case "browse":
      return <Browse name={collection} />;
    case "search":
      return <Search key={collection} name={collection} />;
    case "groups":
      return <Groups name={collection} id={id} />;
    case "duplicates":
      return <Duplicates name={collection} id={id} />;
    case "map":
      return <Map_ name={collection} id={id} />;
    case "train":
      return <Train name={collection} />;
  }
  return <Missing title="Nothing here" text={`There is no screen at ${path.value}.`} to="/" where="All collections" />;
}

function SignIn() {
  const key = useSignal("");
  const fault = useSignal("");
  const enter_ = async () => {
    try {
      session.value = await send<Session>("POST", "/session", { key: key.value.trim() });
      signedOut.value = false;
      void resume().catch(complain);
    } catch (error) {
      fault.value = (error as Error).message;
    }
  };
  return (
    <main class="page sign-in">
      <img src="/app/icon.svg" alt="" width={48} height={48} />
      <h1>imagekin</h1>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void enter_();
        }}
      >
        <label>
          API key
          <input type="password" name="key" autocomplete="current-password" autofocus required value={key.value} onInput={(event) => (key.value = event.currentTarget.value)} />
        </label>
        {fault.value && (
          <p class="fault" role="alert">
            {fault.value}
          </p>
        )}
        <button class="primary">Sign in</button>
        <p class="muted">
          The operator of the service makes keys with <code>imagekin keys create</code>.
        </p>
      </form>
    </main>
  );
}

function Root() {
  const fault = useSignal("");
  useEffect(() => {
    get<Session>("/session").then(
      (found) => {
        session.value = found;
        if (found.owner === null) signedOut.value = true;
        else void resume().catch(complain);
      },
      (error) => {
        if (error instanceof Problem && error.status === 401) signedOut.value = true;
        else fault.value = error.message;
      },
    );
  }, []);
  return <App fault={fault.value} />;
}

listen();
keyboard.listen();
render(<Root />, document.getElementById("app")!);
