// Shows the examples that hold all the words typed; without a script all of them are shown.
const form = document.querySelector("form.find");
const [words, right, wrong, veil] = ["find-words", "find-right", "find-wrong", "show-veil"].map(
  (id) => document.getElementById(id),
);
const examples = [...document.querySelectorAll("article.example")];
function find() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const kinds = { right: right.checked, wrong: wrong.checked };
  let shown = 0;
  for (const example of examples) {
    const text = example.textContent.toLowerCase();
    example.hidden = !kinds[example.dataset.kind] || !wanted.every((word) => text.includes(word));
    shown += example.hidden ? 0 : 1;
  }
  document.getElementById("found").value = `${shown} of ${examples.length}`;
  document.getElementById("examples").classList.toggle("plain", !veil.checked);
}
form.addEventListener("input", find);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
find();
