"""What a page must be for whoever reads it: it fits, its texts stand out, its fields have names, its focus is seen."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import Page

LEAST_CONTRAST = 4.5
"""Of text, in WCAG 2.2 at level AA."""

_PALE = """least => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const bright = colour => {
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = channels(colour).slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const pale = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const [a, b] = [bright(getComputedStyle(e).color), bright(behind(e))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < least) pale.push(`${e.tagName} ${e.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return pale;
}"""

_NAMELESS = """() => [...document.querySelectorAll('input:not([type=hidden])')]
  .filter(e => !e.labels.length).map(e => e.outerHTML)"""

_UNSEEN = """() => [...document.querySelectorAll('a, button, input:not([type=hidden])')].filter(e => {
  if (!e.checkVisibility()) return false;
  e.focus({focusVisible: true});
  const {outlineStyle, outlineWidth} = getComputedStyle(e);
  return outlineStyle === 'none' || parseFloat(outlineWidth) < 2;
}).map(e => e.outerHTML)"""

_TOO_WIDE = "() => document.documentElement.scrollWidth - window.innerWidth"


async def faults_of(page: "Page") -> dict[str, Any]:
    """What is too pale, nameless, without a mark when it has the focus, or too wide; nothing of a page that reads well."""
    found: dict[str, Any] = {
        "pale": await page.evaluate(_PALE, LEAST_CONTRAST), "nameless": await page.evaluate(_NAMELESS),
        "unseen": await page.evaluate(_UNSEEN), "too wide": await page.evaluate(_TOO_WIDE),
    }  # fmt: skip
    return {name: fault for name, fault in found.items() if fault}
