"""Forms: files and fields into the body of a request, and what OpenAPI says of them."""

from typing import Any

from fastapi import Request
from pydantic import ValidationError

from mmray.pipelines.serving.asked import Asked
from mmray.pipelines.serving.refusals import invalid, wrong

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
FILES, FIELDS = 4, 2000  # of one form at most


def body(kind: type[Asked], **fields: Any) -> Any:
    """Return the body that some fields make; a Refusal that names the field where they make none."""
    try:
        return kind.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid(error.errors()) from error


async def filled(request: Request, kind: type[Asked], lists: tuple[str, ...] = ()) -> Any:
    """Read a form into a body of a kind; its files as bytes, and ``name[]`` like ``name``."""
    if request.headers.get("content-type", "").partition(";")[0] not in FORMS:
        raise wrong("body", "is no form: send multipart/form-data")
    async with request.form(max_files=FILES, max_fields=FIELDS) as sent:
        fields: dict[str, Any] = {}
        for name in dict.fromkeys(name.removesuffix("[]") for name in sent):
            values = [*sent.getlist(name), *sent.getlist(f"{name}[]")]
            read = [value if isinstance(value, str) else await value.read() for value in values]
            if len(read) > 1 and name not in lists:
                raise wrong(name, "is given more than once")
            fields[name] = read if name in lists else read[0]
    return body(kind, **fields)


def multipart(kind: type[Asked], or_json: type[Asked] | None = None) -> dict[str, Any]:
    """Return what OpenAPI says of a form, and of the JSON that may come instead."""
    schema = kind.model_json_schema()
    for field in schema["properties"].values():  # a form has no null: what is not there is left out
        if "anyOf" in field:
            field["anyOf"] = [one for one in field["anyOf"] if one != {"type": "null"}]
    content = {"multipart/form-data": {"schema": schema}}
    if or_json is not None:
        content["application/json"] = {"schema": or_json.model_json_schema()}
    return {"requestBody": {"required": True, "content": content}}
