"use strict";
// What can be asked: a form for each route. `wants`: the kinds of models behind it, where it is no model's own; `now`:
// answered at once, not as a job; `limit` names a limit of the server; `needs` the field that another goes with.

const prompt = (label = "What is to be seen") => ({ name: "prompt", label, type: "area", required: true, limit: "prompt_chars" });
const without = (name = "negative_prompt", label = "What is not to be there") => ({ name, label, type: "text", limit: "prompt_chars" });
const number = (name, label, rest = {}) => ({ name, label, type: "number", step: 1, min: 0, ...rest });
const SEED = number("seed", "Seed", { value: 0, max: 4294967295 });
const COUNT = number("n", "How many", { value: 1, min: 1, limit: "n" });
const STEPS = number("steps", "Steps", { min: 1, limit: "steps" });
const GUIDANCE = number("guidance", "Guidance", { step: "any" });
const share = (name, label, value) => ({ name, label, type: "range", min: 0, max: 1, step: .05, value });
const file = (name, label, accept, rest = {}) => ({ name, label, type: "file", accept, ...rest });

const FORMS = [
  { id: "image", title: "Image", route: "v1/images/generations", edits: "v1/images/edits", fields: [
    prompt(), without(), { name: "size", label: "Size, px", type: "text", placeholder: "512x512", pattern: "\\d+x\\d+|auto" },
    COUNT, SEED, STEPS, GUIDANCE,
    file("image", "Begin with a picture", "image/*"), { ...share("strength", "Change it by", .8), needs: "image" } ] },
  { id: "audio", title: "Sound", route: "v1/audio/generations", fields: [
    prompt("What is to be heard"), without(), number("length_s", "Length, s", { step: "any", limit: "length_s" }),
    COUNT, SEED, STEPS, GUIDANCE ] },
  { id: "spectrogram", title: "Image that sounds", route: "v1/spectrograms/generations", weights: true, fields: [
    prompt(), { ...prompt("What is to be heard"), name: "sound_prompt" },
    without("negative_prompt", "Not to be seen"), without("negative_sound_prompt", "Not to be heard"),
    { ...GUIDANCE, label: "Guidance of the picture" }, { ...GUIDANCE, name: "sound_guidance", label: "Guidance of the sound" },
    share("sound_weight", "Weight of the sound", .5),
    share("picture_from", "Picture works from time", .9), share("picture_until", "Picture works until time", 0),
    share("sound_from", "Sound works from time", 1), share("sound_until", "Sound works until time", 0),
    COUNT, SEED, STEPS,
    file("imprint", "Begin with an imprint", "image/*", { base64: true }),
    { ...share("strength", "Paint over it by", .8), needs: "imprint" } ] },
  { id: "story", title: "Story", route: "v1/stories", wants: ["image", "audio"], fields: [
    prompt("What is to be seen and heard"), { name: "sound_prompt", label: "Other words for the sound", type: "text", limit: "prompt_chars" },
    number("length_s", "Length, s", { step: "any", limit: "length_s" }), SEED, STEPS ] },
  { id: "caption", title: "Caption", route: "v1/captions", multipart: true, now: true, fields: [
    file("image", "Picture", "image/*", { required: true }), { name: "prompt", label: "It begins with", type: "text", limit: "prompt_chars" } ] },
  { id: "scores", title: "Labels", route: "v1/scores", multipart: true, now: true, fields: [
    file("file", "Picture or sound", "image/*,audio/*", { required: true }),
    { name: "labels", label: "Labels, one a line", type: "area", required: true, lines: true } ] },
  { id: "transcription", title: "Transcribe", route: "v1/audio/transcriptions", multipart: true, now: true, fields: [
    file("file", "Sound or film", "audio/*,video/*", { required: true }) ] },
  { id: "classification", title: "Classify", route: "v1/classifications", multipart: true, now: true, fields: [
    file("file", "Film, sound or picture", "video/*,audio/*,image/*", { required: true }) ] },
  { id: "search", title: "Search", route: "v1/search", now: true, fields: [
    { name: "text", label: "Words", type: "text", limit: "prompt_chars" },
    file("image", "or a picture", "image/*"), file("audio", "or a sound", "audio/*"),
    number("k", "How many", { value: 10, min: 1, max: 100 }),
    { name: "where", label: "Only where", type: "text", placeholder: "label=dog", lines: true } ] },
];
