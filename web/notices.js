// Shows a notice of a Megapixel node ("nothing to do, …") at the node, until the node runs again.
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

const NAME = 'megapixel_notice'

// The node that a prompt names by this id; inside subgraphs it is "<subgraph>:<node>".
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph
  let node
  for (const part of String(id).split(':')) {
    node = graph?.getNodeById(part)
    graph = node?.subgraph
  }
  return node
}

function remove(node) {
  const index = node?.widgets?.findIndex((widget) => widget.name === NAME) ?? -1
  if (index < 0) return
  node.widgets[index].onRemove?.()
  node.widgets.splice(index, 1)
  node.setSize([node.size[0], node.computeSize()[1]])
}

function show(node, text) {
  const element = document.createElement('div')
  element.textContent = text
  element.style.cssText = 'font-size: 11px; line-height: 1.3; opacity: 0.8; overflow: auto; user-select: text'
  const widget = node.addDOMWidget(NAME, NAME, element, { serialize: false, hideOnZoom: false, getMinHeight: () => 48 })
  widget.serialize = false // neither in the saved graph nor in the prompt
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
}

app.registerExtension({
  name: 'Megapixel.Notices',
  setup() {
    // Not for a node whose result comes from the cache: what it showed is still true.
    api.addEventListener('executing', ({ detail }) => remove(nodeOf(detail)))
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith('Megapixel')) return
    const before = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      before?.call(this, output)
      remove(this)
      if (output?.text) show(this, [].concat(output.text).join('\n'))
    }
  }
})
