() => {
  // Runs in the browser when the page is loaded: names what gradio leaves nameless, and shows the proposal under the
  // pointer, on the picture or in the list, from the outlines in #outlines.
  const ALTS = {
    upload: "The image",
    overview: "The image with its proposals",
    window: "The selected proposal in its window",
    attention: "Attention in the window",
  };

  const find = (selector) => document.querySelector(selector);

  function name() {
    for (const [id, alt] of Object.entries(ALTS))
      for (const picture of document.querySelectorAll(`#${id} img`)) if (picture.alt !== alt) picture.alt = alt;
    for (const input of document.querySelectorAll("#list input")) {
      // One name for all: gradio's differ, so that arrow keys do not go from one to the next.
      if (input.name !== "proposal") input.name = "proposal";
      if (input.checked !== (input.ariaChecked === "true")) input.checked = input.ariaChecked === "true";
    }
    for (const icon of document.querySelectorAll("svg:not([aria-hidden])")) icon.ariaHidden = "true";
    const list = find("#list");
    if (list && !list.ariaLabel) list.ariaLabel = "Proposals, best first";
    const status = find("#status");
    if (status && !status.role) status.role = "status"; // screen readers say what changes in it
  }
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();

  let text = "";
  let proposals = [];
  function current() {
    const now = find("#outlines [data-proposals]")?.dataset.proposals ?? "[]";
    if (now !== text) {
      text = now;
      proposals = JSON.parse(now).map(([path, says]) => ({ path: new Path2D(path), says }));
    }
    return proposals;
  }

  // Where the picture lies on the screen, within its box that keeps its shape.
  function place(picture) {
    const box = picture.getBoundingClientRect();
    const scale = Math.min(box.width / picture.naturalWidth, box.height / picture.naturalHeight);
    const width = picture.naturalWidth * scale;
    const height = picture.naturalHeight * scale;
    return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height, scale };
  }

  const drawing = document.createElement("canvas");
  const label = document.createElement("div");
  drawing.id = "hovered";
  label.id = "hovered_label";
  drawing.hidden = label.hidden = true;
  drawing.ariaHidden = "true";
  document.body.append(drawing, label);
  const context = drawing.getContext("2d");

  function hide() {
    drawing.hidden = label.hidden = true;
  }

  function show(number, x, y) {
    const picture = find("#overview img");
    const proposal = current()[number];
    if (!picture?.naturalWidth || !proposal) return hide();
    const { left, top, width, height, scale } = place(picture);
    Object.assign(drawing.style, { left: `${left}px`, top: `${top}px` });
    drawing.width = width;
    drawing.height = height;
    context.scale(scale, scale);
    context.fillStyle = "rgb(255 255 255 / 35%)";
    context.fill(proposal.path, "evenodd");
    for (const [ink, thick] of [["black", 5], ["white", 2.5]]) {
      context.strokeStyle = ink;
      context.lineWidth = thick / scale;
      context.stroke(proposal.path);
    }
    label.textContent = proposal.says;
    Object.assign(label.style, { left: `${x + 14}px`, top: `${y + 14}px` });
    drawing.hidden = false;
    label.hidden = x === undefined;
  }

  document.addEventListener("mousemove", (event) => {
    const row = event.target.closest?.("#list label");
    if (row) return show([...find("#list").querySelectorAll("label:has(input)")].indexOf(row));
    const picture = find("#overview img");
    if (!picture?.naturalWidth || !find("#overview").contains(event.target)) return hide();
    const { left, top, scale } = place(picture);
    const [x, y] = [(event.clientX - left) / scale, (event.clientY - top) / scale];
    const number = current().findIndex(({ path }) => context.isPointInPath(path, x * context.getTransform().a,
      y * context.getTransform().d, "evenodd"));
    number < 0 ? hide() : show(number, event.clientX, event.clientY);
  });
  document.addEventListener("scroll", hide, true);
  document.addEventListener("mouseleave", hide);
}
