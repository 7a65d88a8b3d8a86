/** How the viewer looks: one dark theme, since heat reads as light. Sizes never depend on what is chosen. */

export const STYLE = `
:host { display: block; width: 100%; height: 100%; min-height: 0; }
* { box-sizing: border-box; }
.viewer {
  --page: #111318; --panel: #1c1f26; --line: #3e434f; --faint: #8b92a1; --soft: #bcc2ce; --text: #f0f2f7; --accent: #ffb85c;
  display: flex; flex-direction: column; gap: 8px; width: 100%; height: 100%; min-height: 0; padding: 10px; overflow: hidden;
  background: var(--page); color: var(--text); border-radius: 8px; outline: none; container-type: size;
  font: 12px/1.4 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; text-align: left; position: relative;
}
.viewer.large { font-size: 14px; padding: 18px 22px; gap: 12px; border-radius: 0; }
button, select { font: inherit; color: var(--soft); background: var(--panel); border: 1px solid transparent; border-radius: 6px; }
button { padding: 3px 8px; cursor: pointer; }
button:hover { color: var(--text); border-color: var(--line); }
button:focus-visible, select:focus-visible, input:focus-visible, canvas:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
button:disabled { opacity: .4; cursor: default; }
select { padding: 3px 4px; max-width: 112px; }
.top { display: flex; gap: 10px; align-items: flex-start; }
.prompt { flex: 1; min-width: 0; }
.words { max-height: 7.8em; overflow: auto; line-height: 1.95; scrollbar-width: thin; }
.words .plain { color: var(--faint); white-space: pre-wrap; }
.words .chip { --own: #fff; padding: 1px 7px; margin: 0 1px; border-radius: 999px; border: 1px solid var(--own); color: var(--text);
  background: transparent; opacity: .62; transition: opacity .12s, background .12s; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  max-width: 100%; vertical-align: bottom; }
.words .chip::before { content: ''; display: inline-block; width: .62em; height: .62em; margin-right: .45em; border-radius: 3px; background: var(--own); }
.words .chip[aria-pressed=true] { opacity: 1; background: color-mix(in srgb, var(--own) 24%, transparent); }
.words .chip:hover { opacity: 1; border-color: var(--own); box-shadow: 0 0 0 1px var(--own); }
.words .all { margin-left: 6px; padding: 1px 8px; border-radius: 999px; }
.segments { display: inline-flex; border-radius: 7px; background: var(--panel); padding: 2px; flex: none; }
.segments button { padding: 2px 8px; background: transparent; border: 0; border-radius: 5px; white-space: nowrap; }
.segments button[aria-pressed=true] { background: #363b47; color: var(--text); }
.main { flex: 1; min-height: 0; display: grid; grid-template-columns: minmax(0, 1fr) clamp(190px, 36%, 420px); gap: 12px; }
.left, .right { display: flex; flex-direction: column; gap: 6px; min-height: 0; min-width: 0; }
.stages { flex: 1; min-height: 0; display: flex; gap: 6px; position: relative; }
.stage { position: relative; flex: 1; min-width: 0; min-height: 0; overflow: hidden; border-radius: 6px; background: #0b0d10; }
.stage canvas { position: absolute; cursor: crosshair; touch-action: none; }
.stage .told { position: absolute; left: 8px; top: 6px; right: 8px; pointer-events: none; color: var(--soft); font-size: .92em;
  text-shadow: 0 1px 2px #000, 0 0 4px #000; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.stage.busy::after { content: ''; position: absolute; left: 0; top: 0; height: 2px; width: 34%; background: var(--accent); animation: slide 1.1s infinite linear; }
@keyframes slide { from { left: -34% } to { left: 100% } }
.transport { display: flex; align-items: center; gap: 8px; height: 26px; flex: none; }
.transport input { flex: 1; min-width: 0; accent-color: var(--accent); margin: 0; height: 16px; }
.transport .time { width: 15.5em; text-align: right; color: var(--soft); font-variant-numeric: tabular-nums; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; flex: none; }
.transport .play { width: 30px; padding: 3px 0; text-align: center; flex: none; }
.legend { height: 38px; flex: none; overflow: auto; display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 2px 14px; align-content: start; scrollbar-width: thin; }
.legend .row { display: flex; align-items: center; gap: 6px; height: 18px; min-width: 0; }
.legend .name { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.legend .dot { width: 9px; height: 9px; border-radius: 3px; flex: none; }
.legend .bar { width: 56px; height: 9px; border-radius: 3px; flex: none; background: #000; }
.legend .end { color: var(--faint); font-variant-numeric: tabular-nums; font-size: .88em; white-space: nowrap; }
.right .head { display: flex; gap: 6px; align-items: center; height: 24px; flex: none; }
.right .head b { font-weight: 600; flex: 1; min-width: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.chart { flex: 1; min-height: 0; position: relative; }
.chart canvas { position: absolute; inset: 0; cursor: cell; touch-action: none; }
.right .told { height: 34px; flex: none; color: var(--faint); font-size: .92em; line-height: 17px; overflow: hidden; font-variant-numeric: tabular-nums; }
.tools { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; flex: none; }
.tools label { display: inline-flex; align-items: center; gap: 5px; color: var(--faint); white-space: nowrap; }
.tools input[type=range] { width: 70px; accent-color: var(--accent); margin: 0; }
.tools .space { flex: 1; }
.status { position: absolute; left: 6px; right: 6px; bottom: 6px; max-height: 60%; overflow: auto; padding: 3px 8px; border-radius: 6px; color: var(--soft);
  background: rgba(17, 19, 24, .82); font-size: .92em; pointer-events: none; }
.status:empty { display: none; }
.status.wrong { color: #ff9a7a; }
.card { z-index: 2; position: absolute; right: 8px; bottom: 8px; width: min(240px, 72%); max-height: calc(100% - 16px); overflow: auto; padding: 8px 10px; border-radius: 8px;
  background: rgba(17, 19, 24, .92); border: 1px solid var(--line); }
.card.away { right: auto; left: 8px; }
.card .head { display: flex; align-items: center; color: var(--soft); margin-bottom: 4px; }
.card .head span { flex: 1; }
.card .close { padding: 0 6px; background: transparent; }
.card .rank { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 8px; position: relative; padding: 1px 4px; }
.card .rank i { position: absolute; inset: 1px auto 1px 0; border-radius: 3px; opacity: .35; }
.card .rank span { position: relative; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.card .rank .value { font-variant-numeric: tabular-nums; color: var(--soft); }
.card .looks { margin-top: 6px; width: 100%; }
.card .finding { display: block; width: 100%; text-align: left; margin-top: 4px; }
.card .line { margin-top: 4px; color: var(--faint); }
.tools button[aria-pressed=true] { color: var(--text); border-color: var(--accent); }
.help { position: absolute; inset: 0; background: rgba(11, 13, 16, .94); display: grid; place-content: center; grid-template-columns: auto auto; gap: 4px 18px; z-index: 3; border-radius: 8px; }
.help kbd { color: var(--accent); font: inherit; text-align: right; }
.gone { flex: 1; display: grid; place-content: center; text-align: center; color: var(--soft); padding: 20px; gap: 8px; max-width: 46em; margin: auto; }
[hidden] { display: none !important; }
@container (max-width: 490px) {
  .main { grid-template-columns: minmax(0, 1fr); grid-template-rows: minmax(200px, 3fr) minmax(150px, 2fr); gap: 6px; overflow: auto; }
  .transport .time { width: 9.5em; }
}
`
