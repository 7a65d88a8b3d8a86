/**
 * The viewer's elements and where they stand, empty.
 */
import { make } from './parts.js'

/** @typedef {ReturnType<typeof skeleton>} Skeleton */

/**
 * @param {object} inside elements of others
 * @param {HTMLElement[]} inside.stages
 * @param {HTMLElement} inside.chart
 * @param {HTMLElement} inside.told
 * @param {HTMLElement} inside.help
 * @param {boolean} large
 */
export function skeleton({ stages, chart, told, help }, large) {
  const words = make('div', { class: 'prompt' })
  const kinds = make('div')
  const play = make('button', { class: 'play', type: 'button', title: 'Play (Space)', label: 'Play' })
  const slider = make('input', { type: 'range', label: 'Frame' })
  const time = make('span', { class: 'time' })
  const legend = make('div', { class: 'legend', label: 'Colour scales' })
  const chosen = make('b')
  const everything = make('button', { type: 'button', text: 'all', title: 'All layers and steps (A)' })
  const tools = make('div', { class: 'tools' })
  const status = make('div', { class: 'status', role: 'status' })
  const element = make('div', { class: `viewer${large ? ' large' : ''}`, role: 'group', label: 'Attention viewer' }, [
    make('div', { class: 'top' }, [words, kinds]),
    make('div', { class: 'main' }, [
      make('div', { class: 'left' }, [
        make('div', { class: 'stages' }, [...stages, status]),
        make('div', { class: 'transport' }, [play, slider, time]),
        legend
      ]),
      make('div', { class: 'right' }, [make('div', { class: 'head' }, [chosen, everything]), chart, told])
    ]),
    tools,
    help
  ])
  element.tabIndex = 0
  return { element, words, kinds, play, slider, time, legend, chosen, everything, tools, status }
}
