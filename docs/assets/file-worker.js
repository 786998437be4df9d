// Lets the site's search work from disk: browsers start no Worker from a file, so its script runs in a hidden frame.
(() => {
  if (location.protocol !== "file:") return
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inner = frame.contentWindow
      // Answers of the script come to this object, as those of a Worker would.
      this.inner.postMessage = (data) => {
        const message = new MessageEvent("message", { data })
        if (this.onmessage) this.onmessage(message)
        this.dispatchEvent(message)
      }
      const script = frame.contentDocument.createElement("script")
      script.src = new URL(url, location.href).href
      this.ready = new Promise((resolve) => (script.onload = resolve))
      frame.contentDocument.body.append(script)
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {}
  }
  window.Worker = window.IFrameWorker
})()
