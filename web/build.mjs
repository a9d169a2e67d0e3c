// Builds the page into the API's package: `node build.mjs [FOLDER]`. The same sources make the same bytes.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folder = resolve(process.argv[2] ?? join(here, "../api/imagekin_api/web/static/app"));

const built = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  outdir: folder,
  write: false,
});

const page = readFileSync(join(here, "src/index.html"), "utf8");
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
let html = page;
for (const file of built.outputFiles) {
  const name = file.path.slice(folder.length + 1);
  writeFileSync(join(folder, name), file.contents);
  // addressed by content, so browsers keep it for good
  const version = createHash("sha256").update(file.contents).digest("hex").slice(0, 16);
  html = html.replace(`/app/${name}"`, `/app/${name}?v=${version}"`);
}
for (const name of ["icon.svg"]) writeFileSync(join(folder, name), readFileSync(join(here, "src", name)));
writeFileSync(join(folder, "index.html"), html);
