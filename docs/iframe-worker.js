// Browsers do not start web workers for pages opened from disk. There, this class runs the script of the search worker in a
// hidden frame. mkdocs-material looks for its name.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    this.frame.answer = data => {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      this.onmessage?.(event)
    }
    document.body.append(this.frame)
    const page = this.frame.contentDocument
    page.open()
    page.write(`<body><script>
      postMessage = data => frameElement.answer(data)
      importScripts = (...urls) => urls.reduce((done, src) => done.then(() => new Promise(resolve => {
        document.body.append(Object.assign(document.createElement("script"), { src, onload: resolve }))
      })), Promise.resolve())
    </script><script src="${url}"></script>`)
    this.loaded = new Promise(resolve => { this.frame.contentWindow.onload = resolve })
    page.close()
  }

  postMessage(data) {
    this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
  }

  terminate() {
    this.frame.remove()
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = IFrameWorker
}
