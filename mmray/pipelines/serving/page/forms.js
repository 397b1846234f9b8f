"use strict";
// What can be asked: a form for each route. `wants`: the kinds of models behind it, where it is no model's own; `now`:
// answered at once, not as a job; `encoded`: files go into the JSON as base64; `saves`: what of an answer is a file.
// Of a field: `limit` names a limit of the server; `needs` the fields of which one must be given; `wants` as of a form;
// `lines`: a list, one a line; `wide`: a row of its own, where its type does not say so.

const area = (name, label, placeholder, rest = {}) => ({ name, label, placeholder, type: "area", limit: "prompt_chars", ...rest });
const prompt = (label, placeholder) => area("prompt", label, placeholder, { required: true });
const text = (name, label, placeholder, rest = {}) => ({ name, label, placeholder, type: "text", ...rest });
const words = (name, label, placeholder) => text(name, label, placeholder, { limit: "prompt_chars" });
const number = (name, label, rest = {}) => ({ name, label, type: "number", step: 1, min: 0, placeholder: "default", ...rest });
const share = (name, label, value, rest = {}) => ({ name, label, type: "range", min: 0, max: 1, step: .05, value, ...rest });
const file = (name, label, accept, rest = {}) => ({ name, label, type: "file", accept, ...rest });
const group = (legend, fields, rest = {}) => ({ legend, fields, ...rest });

const SIZE = text("size", "Size, px", "default", { pattern: "\\d+x\\d+|auto", hint: "write it as width x height, such as 512x768", wide: false });
const COUNT = number("n", "How many", { value: 1, min: 1, limit: "n" });
const BEST = number("best", "Keep the best", { placeholder: "all", min: 1, limit: "n", wants: ["labels"] });
const SEED = number("seed", "Seed", { value: 0, max: 4294967295 });
const STEPS = number("steps", "Steps", { min: 1, limit: "steps" });
const GUIDANCE = number("guidance", "Guidance", { step: "any", max: 100 });
const LENGTH = number("length_s", "Length, s", { step: "any", limit: "length_s" });
const SEEDED = "One seed gives one result. Guidance: how closely it keeps to the words.";

const FORMS = [
  { id: "image", title: "Image", verb: "Make the image", about: "A picture of what you describe.",
    route: "v1/images/generations", edits: "v1/images/edits", saves: { b64_json: "image.png" }, fields: [
      prompt("What to show", "a lighthouse in a storm, oil painting"), words("negative_prompt", "What to leave out", "people, text"),
      group("Settings", [SIZE, COUNT, BEST, SEED, STEPS, GUIDANCE], { about: SEEDED }),
      group("Begin with a picture", [file("image", "Picture (optional)", "image/*"),
        share("strength", "How much of it to change", .8, { needs: ["image"], min: .05, wide: true })]) ] },
  { id: "audio", title: "Sound", verb: "Make the sound", about: "A sound of what you describe.",
    route: "v1/audio/generations", saves: { b64_json: "sound.wav" }, fields: [
      prompt("What to hear", "rain on a tin roof, distant thunder"), words("negative_prompt", "What to leave out", "voices"),
      group("Settings", [LENGTH, COUNT, BEST, SEED, STEPS, GUIDANCE], { about: SEEDED }) ] },
  { id: "spectrogram", title: "Image that sounds", verb: "Make the image that sounds", encoded: true,
    about: "One picture that is also a spectrogram: two models paint it together, one for the eye, one for the ear.",
    route: "v1/spectrograms/generations", saves: { b64_json: "picture.png", sound_b64: "sound.wav" }, fields: [
      prompt("What to show", "a painting of castle towers, grayscale"),
      area("sound_prompt", "What to hear", "bell ringing", { required: true }),
      words("negative_prompt", "Leave out of the picture"), words("negative_sound_prompt", "Leave out of the sound"),
      group("Settings", [{ ...GUIDANCE, label: "Picture guidance" }, { ...GUIDANCE, name: "sound_guidance", label: "Sound guidance" },
        STEPS, COUNT, BEST, SEED]),
      group("Weights over time", [share("sound_weight", "Share of the sound while both paint", .5, { wide: true }),
        share("picture_from", "Picture begins at", .9), share("picture_until", "Picture ends at", 0),
        share("sound_from", "Sound begins at", 1), share("sound_until", "Sound ends at", 0)],
        { weights: true, about: "Who paints when: from time 1, all noise, to time 0, the result." }),
      group("Begin with an imprint", [file("imprint", "Picture or recording that shines through (optional)", "image/*,audio/*"),
        text("imprint_text", "or words, drawn across it", "HELLO"),
        share("strength", "How much to paint over it", .8, { needs: ["imprint", "imprint_text"], wide: true })]) ] },
  { id: "story", title: "Story", verb: "Make the story", wants: ["image", "audio", "caption"], about: "A picture, a sound and a caption of one prompt, as a film.",
    route: "v1/stories", saves: { video_b64: "story.mp4" }, fields: [
      prompt("What to show and hear", "waves breaking on a rocky shore"), words("sound_prompt", "Other words for the sound (optional)"),
      group("Settings", [SIZE, LENGTH, SEED, STEPS, GUIDANCE], { about: SEEDED }) ] },
  { id: "caption", title: "Caption", verb: "Describe it", about: "What a picture shows, in words.",
    route: "v1/captions", multipart: true, now: true, fields: [
      file("image", "Picture", "image/*", { required: true }), words("prompt", "The caption begins with (optional)", "a photograph of") ] },
  { id: "scores", title: "Labels", verb: "Compare the labels", about: "Which of your labels fits a picture or a sound best.",
    route: "v1/scores", multipart: true, now: true, fields: [
      file("file", "Picture or sound", "image/*,audio/*", { required: true }),
      { ...area("labels", "Labels, one a line", "dog\ncat"), required: true, lines: true },
      text("template", "Sentence around each label (optional)", "a photo of a {}") ] },
  { id: "transcription", title: "Transcribe", verb: "Transcribe it", about: "What is said in a sound or a film.",
    route: "v1/audio/transcriptions", multipart: true, fields: [
      file("file", "Sound or film", "audio/*,video/*", { required: true }) ] },
  { id: "classification", title: "Classify", verb: "Classify it", about: "A film, a sound or a picture through a trained network.",
    route: "v1/classifications", multipart: true, fields: [
      file("file", "Film, sound or picture", "video/*,audio/*,image/*", { required: true }),
      words("text", "Its text, where the network reads one (optional)") ] },
  { id: "search", title: "Search", verb: "Search", now: true, about: "The samples of the store that are nearest to one of these:",
    route: "v1/search", fields: [
      words("text", "Words", "a dog barking"), file("image", "or a picture", "image/*"), file("audio", "or a sound", "audio/*"),
      text("sample", "or a sample, by its id"),
      group("Settings", [number("k", "How many", { value: 10, min: 1, max: 100 }),
        text("within", "In which vectors", "default", { wide: false }),
        text("where", "Only where", "label=dog", { lines: true, wide: false })]) ] },
];
const offered = field => !field.wants || field.wants.every(kind => served.models.some(model => model.kind === kind));
const fieldsOf = form => form.fields.flatMap(one => one.fields || [one]).filter(offered);
