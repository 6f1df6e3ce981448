// What Locust draws in the tab: the page at ./pool, as high as that is (it sets the height itself).
customElements.define("pool-view", class extends HTMLElement {
  connectedCallback() {
    const page = document.createElement("iframe");
    page.title = "Pool";
    page.src = "./pool";
    page.style.cssText = "display:block;width:100%;min-height:60vh;border:0";
    this.replaceChildren(page);
  }
});
