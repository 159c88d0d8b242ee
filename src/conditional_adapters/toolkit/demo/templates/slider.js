const slider = element.querySelector("input");
const name = element.querySelector("#factor-name");
slider.addEventListener("input", () => {
  const factor = props.stops[Number(slider.value)];
  name.textContent = `r = ${factor}`;
  slider.setAttribute("aria-valuetext", `r = ${factor}`);
  props.value = factor;
  trigger("input");
});
