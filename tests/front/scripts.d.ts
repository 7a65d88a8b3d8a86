/** The host serves its own modules beside ours: /scripts/*.js, seen from /extensions/PACK/js/. */
declare module '*/scripts/app.js' {
  export const app: import('./host').App
}
declare module '*/scripts/api.js' {
  export const api: {
    apiURL(path: string): string
    fetchApi(path: string): Promise<Response>
    addEventListener(name: string, listen: (event: { detail: any }) => void): void
  }
}
