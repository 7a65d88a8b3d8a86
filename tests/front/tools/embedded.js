/** Reads a page's data as the viewer does: `node embedded.js CASE.json` prints the slices of each choice, as base64. */
import { readFileSync } from 'node:fs'
import { pageSource } from '../../../web/js/viewer/source.js'

const { data, asked } = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const source = pageSource(data)
const found = []
for (const { wanted, entities } of asked) {
  found.push(Buffer.from(await source.maps(wanted, entities)).toString('base64'))
}
console.log(JSON.stringify(found))
