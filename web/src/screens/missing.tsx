// What stands where something is not, with a way on.

export function Missing({ title, text, to, where }: { title: string; text: string; to: string; where: string }) {
  return (
    <main class="page">
      <h1>
        <bdi>{title}</bdi>
      </h1>
      <p class="empty">
        <bdi>{text}</bdi> <a href={to}>{where}</a>
      </p>
    </main>
  );
}
