/**
 * Random events on the editor of a page (`scripts.editor_page`), and what it shows and says after each of them. Sent into
 * the page as it is: a function of a seed and a count.
 */
;(seed, count) => {
  const { panel, host } = window
  const { editor } = panel
  let state = seed * 2654435761 + 1
  const random = () => {
    state = (Math.imul(state ^ (state >>> 15), 2246822519) + 374761393) | 0
    return ((state ^ (state >>> 13)) >>> 0) / 4294967296
  }
  const pick = (list) => list[Math.floor(random() * list.length)]
  const kind = editor.kind.name
  const painted = 'mask 200x120 s9FyB2EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0zN'
  const broken = [
    'van 1 2',
    'a: mask 200x120 o9AwA',
    'a: 1 2 3',
    '{"a": ',
    'a: 0: 1 2 3 4; 0: 1 2 3 4',
    'a (subjet): 1 2 3 4',
    'x: 1 2 3 4\nX: 1 2 3 4'
  ]
  const fine = {
    boxes: [
      '# seen\ncat: 0: 10% 10% 30% 30%; 9: off\n\ndog (object): 5 5 60 60',
      '{"cat (subject)": {"0": [1, 2, 30, 40], "12": null}, "dog": {"3": [9, 9, 99, 99]}}',
      'cat: 0: .1 .1 .5 .5; 10: .2 .2 .6 .6',
      ''
    ],
    prompts: [
      `# seen\ncat: 0: 10%,10% -30%,30%; 9: off\n\ndog (object): ${painted}; 4: [5 5 60 60] 9,9`,
      '{"cat (subject)": {"0": {"box": [1, 2, 30, 40]}, "12": null}, "dog": {"3": {"points": [[9, 9]]}}}',
      ''
    ],
    masks: [
      `# seen\ncat: 0: ${painted}; 9: off\n\ndog (object): 3: ${painted}`,
      `{"cat (subject)": {"0": {"mask": "${painted.slice(5)}"}, "12": null}}`,
      ''
    ]
  }[kind]
  const pasted = [
    'bird: 4: 20 20 60 60; 14: 80 20 120 60',
    '[{"type": "obj", "bbox": [100, 200, 300, 400], "desc": "a boat"}]',
    '[[{"x": 5, "y": 9, "width": 40, "height": 30}]]',
    '[{"x": 10, "y": 10}, {"x": 60, "y": 40}, {"x": 120, "y": 20}]',
    `bird: 4: ${painted}; 9: off`,
    'no tracks at all',
    '[]'
  ]
  const keys = [
    'ArrowLeft',
    'ArrowRight',
    'ArrowUp',
    'ArrowDown',
    'Tab',
    ',',
    '.',
    '[',
    ']',
    'Home',
    'End',
    'k',
    'o',
    'b',
    '+',
    '-',
    'Delete'
  ]
  const send = (element, type, x, y, more = {}) => {
    const { left, top } = element.getBoundingClientRect()
    const at = {
      clientX: left + x,
      clientY: top + y,
      pointerId: 1,
      button: 0,
      bubbles: true,
      cancelable: true,
      isPrimary: true
    }
    element.dispatchEvent(new PointerEvent(type, { ...at, ...more }))
  }
  const drag = (element, more) => {
    const spot = () => [random() * element.clientWidth, random() * element.clientHeight]
    send(element, 'pointerdown', ...spot(), more)
    const moves = Math.floor(random() * 4)
    for (let i = 0; i < moves; i += 1) send(element, 'pointermove', ...spot(), more)
    send(element, random() < 0.95 ? 'pointerup' : 'pointercancel', ...spot(), more)
  }
  const field = panel.root.querySelector('.keys')
  const press = (key, more = {}) =>
    field.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...more }))
  const named = () => {
    const own = panel.root.querySelector('input.name')
    own.value = pick(['cat', 'dog', 'a:b', '# note', 'x (subject)', '  ', 'Cat', 'caf\u00e9', '{"a', 'stra\u00dfe'])
    own.dispatchEvent(new Event('change'))
  }
  const undo = () => press('z', { ctrlKey: true })
  const redo = () => press('z', { ctrlKey: true, shiftKey: true })
  const actions = [
    ...Array(8).fill(() =>
      drag(panel.stage.element, random() < 0.2 ? { shiftKey: true } : random() < 0.2 ? { altKey: true } : {})
    ),
    ...Array(4).fill(() => drag(panel.timeline.element)),
    ...Array(5).fill(() => press(pick(keys), random() < 0.2 ? { shiftKey: true } : {})),
    undo,
    redo,
    () => editor.paste(pick(pasted)),
    () =>
      pick(
        [...panel.root.querySelectorAll('button')].filter(
          (b) => !['play', 'large', 'undo', 'redo'].includes(b.className)
        )
      ).click(),
    named,
    () => {
      host.text = random() < 0.7 ? pick(fine) : pick(broken)
      editor.refresh()
    }
  ]
  const told = []
  for (let step = 0; step < count; step += 1) {
    const [written, locked] = [host.written, editor.error !== null]
    const action = pick(actions)
    action()
    panel.stage.paint()
    panel.timeline.paint()
    // A text that cannot be read is changed by nobody but a person, or by undo.
    const touched = locked && host.written !== written && action !== undo && action !== redo
    const tracks = editor.scene.tracks.map(({ name, role, keys }) => [
      name,
      role,
      keys.map(({ frame, box, dots, mask, off }) => [
        frame,
        kind === 'boxes'
          ? box
          : off
            ? null
            : { box, points: dots.map((dot) => [dot.x, dot.y, dot.inside]), mask: mask?.code ?? null }
      ])
    ])
    told.push({
      text: host.text,
      kept: editor.history.now,
      error: editor.error !== null,
      draft: editor.draft !== null,
      touched,
      tracks
    })
  }
  return told
}
