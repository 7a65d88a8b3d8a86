/**
 * What a node has to tell after it ran: its text, its warnings, and the files that it wrote. Plain data, no page.
 *
 * Everything that comes in here is checked: outputs come from the server, kept reports from workflows of strangers.
 */

/**
 * A file in one of the host's own folders.
 * @typedef {{filename: string, subfolder: string, type: string}} SavedFile
 */

/**
 * @typedef {{text: string, warnings: string[], files: SavedFile[]}} Report
 */

/** Where a report is kept among a node's properties, which are saved with the workflow. */
export const PROPERTY = 'matrix_report'

/** What a workflow keeps of one report at most: characters of its text, and entries of its lists. */
export const LONGEST_TEXT = 20000
const MOST_ENTRIES = 100
const FOLDERS = ['output', 'input', 'temp']

/**
 * The report in what a node sent to the page after it ran.
 * @param {unknown} output lists by name: `text`, `matrix_warnings`, `files`
 * @returns {Report | null} null where there is nothing to show
 */
export function reportOfOutput(output) {
  const lists = asRecord(output)
  return whole(strings(lists.text).join('\n\n'), strings(lists.matrix_warnings), savedFiles(lists.files))
}

/**
 * The report that a workflow has kept.
 * @param {unknown} kept the node's property, whatever wrote it
 * @returns {Report | null} null where there is none
 */
export function reportOfProperty(kept) {
  const record = asRecord(kept)
  const text = typeof record.text === 'string' ? record.text : ''
  return whole(text, strings(record.warnings), savedFiles(record.files))
}

/**
 * The address at which the host serves a file, below its own root.
 * @param {SavedFile} file
 * @returns {string}
 */
export function address(file) {
  return `/view?${new URLSearchParams({ filename: file.filename, subfolder: file.subfolder, type: file.type })}`
}

/**
 * How many lines a report takes where `columns` characters fit in one.
 * @param {Report} report
 * @param {number} columns
 * @returns {number}
 */
export function lineCount(report, columns) {
  const lines = [...report.warnings, ...report.text.split('\n')]
  const rows = lines.reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / columns)), 0)
  return rows + report.files.length
}

/**
 * @param {string} text
 * @param {string[]} warnings
 * @param {SavedFile[]} files
 * @returns {Report | null}
 */
function whole(text, warnings, files) {
  if (!text && !warnings.length && !files.length) return null
  return { text: shortened(text), warnings: warnings.map(shortened), files }
}

/** @param {string} text */
function shortened(text) {
  if (text.length <= LONGEST_TEXT) return text
  return `${text.slice(0, LONGEST_TEXT)}\n... (${text.length - LONGEST_TEXT} more characters)`
}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>}
 */
function asRecord(value) {
  return typeof value === 'object' && value !== null ? /** @type {Record<string, unknown>} */ (value) : {}
}

/**
 * @param {unknown} values
 * @returns {string[]}
 */
function strings(values) {
  return Array.isArray(values) ? values.filter((one) => typeof one === 'string').slice(0, MOST_ENTRIES) : []
}

/**
 * @param {unknown} values
 * @returns {SavedFile[]}
 */
function savedFiles(values) {
  if (!Array.isArray(values)) return []
  return values
    .slice(0, MOST_ENTRIES)
    .map(asRecord)
    .filter((one) => typeof one.filename === 'string' && one.filename && FOLDERS.includes(String(one.type)))
    .map((one) => ({
      filename: String(one.filename),
      subfolder: typeof one.subfolder === 'string' ? one.subfolder : '',
      type: String(one.type)
    }))
}
