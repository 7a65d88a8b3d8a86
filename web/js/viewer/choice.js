/**
 * What is chosen in a viewer, and what a choice becomes. Plain data, no page.
 */
import { namesText, numbersText, readNames, readNumbers } from './text.js'

/** @typedef {import('./source.js').Manifest} Manifest */
/** @typedef {import('./source.js').Wanted} Wanted */

/**
 * `picture` is a place among the pictures of the stream: pixel frames, or token frames of a clip that is not there.
 * @typedef {{stream: number, kind: string, names: string[], layers: number[], steps: number[], head: number | null,
 *   picture: number, smooth: boolean, scale: 'clip' | 'frame', colours: string, strength: number, outlines: boolean,
 *   compare: 'off' | 'side' | 'difference'}} Choice
 */

/**
 * The fields of MATRIX Preview Attention, as texts and values.
 * @typedef {{kind?: string, names?: string, layers?: string, steps?: string, stream?: number, smooth?: boolean,
 *   scale?: 'clip' | 'frame', colours?: string, strength?: number, head?: number}} Fields `head`: -1 for their mean
 */

const FIRST_KINDS = ['v2t', 'v2v', 't2v']

/**
 * What there is of the chosen kind in the chosen stream.
 * @param {Manifest} manifest
 * @param {Pick<Choice, 'stream' | 'kind'>} choice
 */
export function heldBy(manifest, { stream, kind }) {
  return manifest.streams[stream].maps[kind]
}

/**
 * The kinds of a stream, words first.
 * @param {Manifest} manifest
 * @param {number} stream
 * @returns {string[]}
 */
export function kindsOf(manifest, stream) {
  const kinds = Object.keys(manifest.streams[stream].maps)
  return [...FIRST_KINDS.filter((kind) => kinds.includes(kind)), ...kinds.filter((kind) => !FIRST_KINDS.includes(kind))]
}

/**
 * The choice that fields stand for. What cannot be read, or is not there, is everything, and is told.
 * @param {Manifest} manifest
 * @param {Fields} fields
 * @returns {{choice: Choice, notes: string[]}}
 */
export function choiceOf(manifest, fields) {
  const stream = fields.stream !== undefined && manifest.streams[fields.stream] ? fields.stream : 0
  const kinds = kindsOf(manifest, stream)
  if (!kinds.length) throw new Error('this capture holds no maps')
  const kind = fields.kind && kinds.includes(fields.kind) ? fields.kind : kinds[0]
  const held = heldBy(manifest, { stream, kind })
  const steps = manifest.steps.map((step) => step.index)
  /** @type {string[]} */
  const notes = []
  /**
   * @template T
   * @param {T | null} found
   * @param {T} all
   * @param {string} what
   * @param {string | undefined} text
   */
  const or = (found, all, what, text) => {
    if (found === null) notes.push(`${what} "${text}" are not all in this capture: everything is shown`)
    return found ?? all
  }
  const head = fields.head ?? -1
  if (head >= 0 && !held.heads.includes(head)) {
    notes.push(
      `head ${head} was not recorded: ${held.heads.length ? 'the mean over heads is' : 'means over heads are'} shown`
    )
  }
  return {
    choice: {
      stream,
      kind,
      names: or(readNames(fields.names ?? 'all', held.entities), held.entities, 'names', fields.names),
      layers: or(readNumbers(fields.layers ?? 'all', held.layers), held.layers, 'layers', fields.layers),
      steps: or(readNumbers(fields.steps ?? 'all', steps, manifest.experts), steps, 'steps', fields.steps),
      head: held.heads.includes(head) ? head : null,
      picture: 0,
      smooth: fields.smooth ?? true,
      scale: fields.scale ?? 'clip',
      colours: fields.colours ?? 'ember',
      strength: fields.strength ?? 0.85,
      outlines: true,
      compare: 'off'
    },
    notes
  }
}

/**
 * The fields that a choice is written into.
 * @param {Manifest} manifest
 * @param {Choice} choice
 * @returns {Fields}
 */
export function fieldsOf(manifest, choice) {
  const held = heldBy(manifest, choice)
  const steps = manifest.steps.map((step) => step.index)
  return {
    kind: choice.kind,
    names: namesText(choice.names, held.entities) ?? 'all',
    layers: numbersText(choice.layers, held.layers),
    steps: numbersText(choice.steps, steps),
    stream: choice.stream,
    smooth: choice.smooth,
    scale: choice.scale,
    colours: choice.colours,
    strength: choice.strength,
    head: choice.head ?? -1
  }
}

/**
 * What a choice asks of a capture; null where it has none of the kind, layers or steps. Of a second capture the layers and
 * steps that it has, too.
 * @param {Manifest} manifest
 * @param {Choice} choice
 * @returns {Wanted | null}
 */
export function wantedOf(manifest, choice) {
  const held = manifest.streams[choice.stream]?.maps[choice.kind]
  if (!held) return null
  const there = new Set(held.layers)
  const taken = new Set(manifest.steps.map((step) => step.index))
  const layers = choice.layers.filter((layer) => there.has(layer))
  const steps = choice.steps.filter((step) => taken.has(step))
  if (!layers.length || !steps.length) return null
  const head = choice.head !== null && held.heads.includes(choice.head) ? choice.head : null
  return { stream: choice.stream, kind: choice.kind, layers, steps, head }
}

/**
 * The choice with another kind: names and layers that it has, too, or all of them.
 * @param {Manifest} manifest
 * @param {Choice} choice
 * @param {string} kind
 * @param {string[]} [names] to look at
 * @returns {Choice}
 */
export function withKind(manifest, choice, kind, names = choice.names) {
  const held = heldBy(manifest, { stream: choice.stream, kind })
  const before = heldBy(manifest, choice)
  const same = held.entities.filter((name) => names.includes(name))
  const everything = choice.layers.length === before.layers.length
  const layers = everything ? [] : held.layers.filter((layer) => choice.layers.includes(layer))
  return {
    ...choice,
    kind,
    names: same.length ? same : held.entities,
    layers: layers.length ? layers : held.layers,
    head: choice.head !== null && held.heads.includes(choice.head) ? choice.head : null
  }
}

/**
 * The names after a click on one: that one alone; with `more` it is added or taken away, and never the last.
 * @param {string[]} chosen
 * @param {string} name
 * @param {boolean} more
 * @param {string[]} existing
 * @returns {string[]}
 */
export function clicked(chosen, name, more, existing) {
  if (!more) return [name]
  const others = chosen.filter((each) => each !== name)
  const wanted = others.length < chosen.length ? others : [...chosen, name]
  return wanted.length ? existing.filter((each) => wanted.includes(each)) : chosen
}

/**
 * The next single layer or step in a direction; from several it is the first or the last.
 * @param {number[]} chosen ascending
 * @param {number[]} existing ascending
 * @param {1 | -1} direction
 * @returns {number[]}
 */
export function moved(chosen, existing, direction) {
  if (chosen.length !== 1) return [direction > 0 ? existing[0] : existing[existing.length - 1]]
  const at = existing.indexOf(chosen[0]) + direction
  return [existing[Math.min(existing.length - 1, Math.max(0, at))]]
}

/**
 * Words at one place of the clip, those that it looks at most first.
 * @param {{name: string, value: number | null, mean: number}[]} found
 * @returns {{name: string, value: number, times: number}[]}
 */
export function rankedWords(found) {
  return found
    .flatMap(({ name, value, mean }) => (value === null ? [] : [{ name, value, times: mean ? value / mean : 0 }]))
    .sort((one, other) => other.value - one.value)
}
