// One thumbnail. A browser stops loading what leaves the document only when it is told to.
import { useLayoutEffect, useRef } from "preact/hooks";

interface Props {
  src: string;
  alt: string;
  wait?: boolean;
  class?: string;
  style?: Record<string, string>;
}

/** What has no picture, as imported vectors have none, shows the ground of its place. */
function hide(event: Event): void {
  (event.currentTarget as HTMLElement).style.visibility = "hidden";
}

export function Thumbnail({ src, alt, wait, class: name, style }: Props) {
  const image = useRef<HTMLImageElement>(null);
  useLayoutEffect(() => {
    const element = image.current!;
    return () => {
      if (!element.complete) element.removeAttribute("src");
    };
  }, []);
  return <img ref={image} class={name} style={style} src={wait ? undefined : src} alt={alt} decoding="async" draggable={false} loading="lazy" onError={hide} />;
}
