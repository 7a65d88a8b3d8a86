/** The look of the editor, in the colours of ComfyUI's theme. */

const CSS = `
.matrix-editor { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; width: 100%; height: 100%;
  min-height: 0; position: relative; color: var(--input-text, #ddd); font: 11px/1.3 Inter, ui-sans-serif, system-ui, sans-serif;
  user-select: none; -webkit-user-select: none; outline: none; }
.matrix-editor .bar { display: flex; gap: 3px; align-items: center; flex: none; }
.matrix-editor button, .matrix-editor select, .matrix-editor input { font: inherit; color: inherit; height: 24px; box-sizing: border-box;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); border-radius: 5px; padding: 0 5px; margin: 0; }
.matrix-editor button { cursor: pointer; display: inline-flex; align-items: center; justify-content: center; min-width: 24px; gap: 3px; }
.matrix-editor button:hover:not(:disabled), .matrix-editor select:hover { border-color: var(--input-text, #ddd); }
.matrix-editor button:disabled { opacity: .4; cursor: default; }
.matrix-editor button[aria-pressed=true] { background: rgb(255 184 92 / .25); border-color: rgb(255 184 92); }
.matrix-editor svg { width: 14px; height: 14px; fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linecap: round; stroke-linejoin: round; }
.matrix-editor .name { width: 60px; min-width: 0; flex: 1 1 60px; }
.matrix-editor .role { width: 74px; flex: 0 0 auto; }
.matrix-editor .bar > button { flex: none; width: 24px; padding: 0; }
.matrix-editor .size { flex: 0 1 54px; width: 54px; min-width: 30px; padding: 0; accent-color: rgb(255 184 92); }
.matrix-editor-folded { display: flex; align-items: center; justify-content: center; gap: 6px; width: 100%; height: 26px; box-sizing: border-box;
  cursor: pointer; border: 1px dashed var(--border-color, #4e4e4e); border-radius: 5px; background: none; color: var(--descrip-text, #999); font: 11px Inter, ui-sans-serif, sans-serif; }
.matrix-editor-folded:hover { color: var(--input-text, #ddd); border-color: var(--input-text, #ddd); }
.matrix-editor .stage { flex: 1 1 0; min-height: 60px; position: relative; border-radius: 5px; overflow: hidden; }
.matrix-editor .stage canvas, .matrix-editor .times canvas { width: 100%; height: 100%; }
.matrix-editor .times { flex: none; overflow-x: hidden; overflow-y: auto; max-height: 40%; border-radius: 5px; }
.matrix-editor .state { flex: 1 1 0; white-space: pre; text-overflow: ellipsis; color: var(--descrip-text, #999); overflow: hidden; }
.matrix-editor .told { position: absolute; left: 6px; right: 6px; bottom: 6px; padding: 5px 8px; border-radius: 5px; white-space: pre-wrap;
  overflow-wrap: anywhere; background: rgb(20 22 28 / .92); border: 1px solid rgb(255 184 92 / .7); color: rgb(255 214 160); pointer-events: none; max-height: 60%; overflow: hidden; }
.matrix-editor .told.wrong { border-color: rgb(255 110 110); color: rgb(255 190 190); }
.matrix-editor .told:empty { display: none; }
.matrix-editor .keys { position: absolute; width: 1px; height: 1px; padding: 0; border: 0; opacity: 0; left: 0; top: 0; resize: none; }
.matrix-editor:has(.keys:focus) .stage { box-shadow: 0 0 0 1.5px rgb(255 184 92 / .8); }
.matrix-editor-away { display: flex; align-items: center; justify-content: center; height: 100%; width: 100%; box-sizing: border-box;
  border: 1px dashed var(--border-color, #4e4e4e); border-radius: 5px; color: var(--descrip-text, #999); font: 12px Inter, ui-sans-serif, sans-serif; cursor: pointer; }
.matrix-editor-large { position: fixed; inset: 0; z-index: 10000; background: rgb(0 0 0 / .6); display: flex; padding: 3vh 3vw; box-sizing: border-box; }
.matrix-editor-large > .matrix-editor { background: var(--comfy-menu-bg, #1b1b1f); border: 1px solid var(--border-color, #4e4e4e); border-radius: 10px;
  padding: 10px; box-shadow: 0 10px 60px rgb(0 0 0 / .6); font-size: 13px; }
.matrix-editor-large button, .matrix-editor-large select, .matrix-editor-large input { height: 30px; min-width: 30px; }
.matrix-editor-large .name { flex: 0 1 260px; }
.matrix-editor-large .bar > button { width: 34px; }
.matrix-editor .space { flex: 1; }
`

/** @type {CSSStyleSheet | null} */
let sheet = null

/** Puts the style into the page, once. A sheet that a script makes is allowed where a page forbids styles in its text. */
export function dress() {
  if (sheet) return
  sheet = new CSSStyleSheet()
  sheet.replaceSync(CSS)
  document.adoptedStyleSheets.push(sheet)
}

/** @type {Record<string, string>} */
const PATHS = {
  add: 'M7 2v10M2 7h10',
  undo: 'M5 2 2 5l3 3M2 5h6a4 4 0 0 1 0 8H5',
  redo: 'm9 2 3 3-3 3M12 5H6a4 4 0 0 0 0 8h3',
  play: 'M4 2.5v9l7-4.5z',
  pause: 'M4.5 2.5v9M9.5 2.5v9',
  key: 'm7 2 5 5-5 5-5-5z',
  off: 'M2 2l10 10M7 2l5 5-5 5-5-5z',
  drop: 'M2 4h10M5.5 4V2h3v2M3.5 4l.7 8h5.6l.7-8',
  grid: 'M2 2h10v10H2zM2 5.3h10M2 8.7h10M5.3 2v10M8.7 2v10',
  large: 'M8 2h4v4M6 12H2V8M12 2 8 6M2 12l4-4',
  small: 'M12 6H8V2M2 8h4v4M8 6l4-4M6 8l-4 4',
  minus: 'M2 7h10',
  pin: 'M7 12.5V9.5M7 9.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7',
  brush: 'M12 2 7 8M7 8c-2-1-4 0-4 2 0 1-1 1.5-1.5 1.5C3 13 7 12.5 7 10z'
}

/** @param {string} name */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  svg.setAttribute('viewBox', '0 0 14 14')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  path.setAttribute('d', PATHS[name])
  svg.append(path)
  return svg
}
