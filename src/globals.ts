/**
 * Web standards that this package's declarations name, for programs compiled without the DOM library: there these are empty
 * stand-ins; with it (or with Node's types) they add nothing to the real ones.
 */
export {};

declare global {
  interface AbortSignal {}
  interface URL {}
  interface SymbolConstructor {
    readonly asyncDispose: unique symbol;
    readonly dispose: unique symbol;
  }
  namespace WebAssembly {
    interface Module {}
  }
}
