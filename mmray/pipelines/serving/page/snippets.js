"use strict";
// The same request by program. What is pasted must do what the form did, whatever the words hold.

const MEDIA = ["import base64"];
const quoted = text => `'${text.replaceAll("'", "'\\''")}'`; // for a shell
const written = value => JSON.stringify(value, null, 4); // texts, numbers and lists are written in Python as in JSON
const keyed = () => byId("key").value !== "";

function curl(form, request, url) {
  const lines = [`curl ${quoted(url)}`];
  if (keyed()) lines.push('-H "Authorization: Bearer $MMRAY_KEY"');
  if (request.multipart) {
    // Not -F: that takes words that begin with @ or < for files, and what follows a semicolon for a type.
    for (const [name, value] of Object.entries(request.values)) for (const one of [value].flat()) lines.push(`--form-string ${quoted(`${name}=${one}`)}`);
    for (const [name, one] of Object.entries(request.files)) {
      const path = one.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
      lines.push(`-F ${quoted(`${name}=@"${path}"`)}`);
    }
  } else lines.push("-H 'Content-Type: application/json'");
  if (form.saves) lines.push("-o answer.json");
  const body = JSON.stringify(request.values), [[name, one] = []] = Object.entries(request.files);
  if (request.multipart) return lines.join(" \\\n  ");
  if (!one) return [...lines, `-d ${quoted(body)}`].join(" \\\n  ");
  // A picture is longer than a shell lets an argument be.
  const before = `{ printf %s ${quoted(`${body.slice(0, -1)},${JSON.stringify(name)}:"`)}`;
  return `${before}\n  base64 < ${quoted(`./${one.name}`)} | tr -d '\\n'\n  printf '"}'; } |\n${[...lines, "-d @-"].join(" \\\n  ")}`;
}

function python(form, request, url) {
  const files = Object.entries(request.files), coded = form.saves || (!request.multipart && files.length);
  const code = [...coded ? MEDIA : [], ...keyed() ? ["import os"] : [], ...coded || keyed() ? [""] : [], "import requests", ""];
  code.push(`asked = ${written(request.values)}`);
  const given = [`${request.multipart ? "data" : "json"}=asked`];
  if (request.multipart) {
    code.push(`files = {${files.map(([name, one]) => `${written(name)}: open(${written(one.name)}, "rb")`).join(", ")}}`);
    given.push("files=files");
  } else for (const [name, one] of files) code.push(`asked[${written(name)}] = base64.b64encode(open(${written(one.name)}, "rb").read()).decode()`);
  if (keyed()) given.push('headers={"Authorization": f"Bearer {os.environ[\'MMRAY_KEY\']}"}');
  code.push(`answer = requests.post(${written(url)}, ${given.join(", ")})`, "if not answer.ok:", "    raise SystemExit(answer.text)");
  if (!form.saves) return [...code, "print(answer.json())"].join("\n");
  code.push('for n, one in enumerate(answer.json()["data"]):');
  for (const [field, name] of Object.entries(form.saves)) {
    code.push(`    with open(f"${name.replace(".", "-{n}.")}", "wb") as file:`, `        file.write(base64.b64decode(one["${field}"]))`);
  }
  return code.join("\n");
}

async function copied(button, text, shown) {
  try { await navigator.clipboard.writeText(text); } catch { // a page that is not from this machine or https has no clipboard
    getSelection().selectAllChildren(shown);
    if (!document.execCommand("copy")) return;
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function snippets(form, request) {
  const url = new URL(request.route, location.href).href;
  const parts = [["curl", curl(form, request, url)], ["Python", python(form, request, url)]].map(([name, text]) => {
    const shown = element("pre", { tabindex: 0, role: "region", "aria-label": name }, text);
    const copy = element("button", { type: "button", "aria-label": `Copy ${name}`, on: { click: () => copied(copy, text, shown) } }, "Copy");
    return element("div", { class: "code" }, element("header", {}, element("b", {}, name), copy), shown);
  });
  const names = Object.values(request.files).map(one => one.name);
  const notes = [keyed() ? "The key is read from MMRAY_KEY of the environment." : "", names.length ? `Run it where ${names.join(", ")} is.` : ""];
  return element("div", { class: "codes" }, element("p", { class: "whole soft" }, notes.filter(Boolean).join(" ")), ...parts);
}
