"""Every problem that HTTP can answer with (RFC 9457): code, status and one sentence in Chinese and English, in one table.

A service's own refusals are added to this table by `catalogue`; documents, pages and answers follow from it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

from shared.contracts.event import RefusalText

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem; its `type` URI is `/problems/<code>`."""

    code: str
    status: int
    zh: str
    en: str


class ProblemError(Exception):
    """Answer this request with a problem. `members` go into the body beside type, title, status and code."""

    def __init__(
        self, code: str, *, retry_after_seconds: int | None = None, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(code)
        self.code = code
        self.members = members
        self.headers = dict(headers or {})
        if retry_after_seconds is not None:
            self.headers["Retry-After"] = str(retry_after_seconds)


def _table(*types: ProblemType) -> dict[str, ProblemType]:
    return {each.code: each for each in types}


PROBLEMS: Final[Mapping[str, ProblemType]] = _table(
    ProblemType("body_too_large", 413, "请求体过大", "The body is larger than this command takes"),
    ProblemType("body_too_slow", 408, "请求体传送太慢", "The body did not arrive in time"),
    ProblemType(
        "content_type_unsupported", 415, "请求体必须是 application/json", "The body must be application/json, in UTF-8 and not compressed"
    ),
    ProblemType("body_not_utf8", 400, "请求体不是 UTF-8 编码", "The body is not UTF-8"),
    ProblemType("json_malformed", 400, "请求体不是正确的 JSON", "The body is not well-formed JSON"),
    ProblemType("json_duplicate_key", 400, "JSON 对象中有重复的键", "A JSON object names a key twice"),
    ProblemType("json_number_not_finite", 400, "数字不是有限值", "A number is NaN, infinite or out of range"),
    ProblemType("json_integer_too_large", 400, "整数超出 64 位", "An integer does not fit into 64 bits"),
    ProblemType("json_too_deep", 400, "JSON 嵌套过深", "JSON is nested more than 32 levels deep"),
    ProblemType("json_array_too_long", 400, "JSON 数组过长", "A JSON array has more elements than this command takes"),
    ProblemType("text_has_nul", 400, "文字中含有 NUL 字符", "A text contains the character NUL"),
    ProblemType("text_has_lone_surrogate", 400, "文字中含有不成对的代理字符", "A text contains half of a surrogate pair"),
    ProblemType("field_unknown", 422, "有未知的字段", "The body has a field that this command does not know"),
    ProblemType("field_missing", 422, "缺少字段", "The body lacks a field"),
    ProblemType("field_wrong_type", 422, "字段类型不对", "A field has the wrong type; nothing is converted"),
    ProblemType("field_wrong_value", 422, "字段的值不允许", "A field has a value that is not allowed"),
    ProblemType("idempotency_key_missing", 400, "缺少 Idempotency-Key", "A command needs the header Idempotency-Key"),
    ProblemType(
        "idempotency_key_invalid",
        400,
        "Idempotency-Key 须为 1 至 200 个可见 ASCII 字符",
        "Idempotency-Key must be 1 to 200 visible ASCII characters",
    ),
    ProblemType(
        "idempotency_key_reused", 422, "该 Idempotency-Key 已用于另一请求", "This Idempotency-Key was used before with another request"
    ),
    ProblemType("if_match_invalid", 400, 'If-Match 须为形如 "3" 的版本', 'If-Match must be one version such as "3"'),
    ProblemType("version_stale", 412, "该对象已有更新的版本", "The stream has a newer version than If-Match names"),
    ProblemType("correlation_id_invalid", 400, "X-Correlation-Id 须为 UUID", "X-Correlation-Id must be a UUID"),
    ProblemType(
        "after_invalid", 400, "After 须为 服务:日志:位置", "After must be position tokens such as an answer's header Position gives"
    ),
    ProblemType("after_foreign_log", 409, "After 指向另一日志", "After names a log that this installation does not read"),
    ProblemType(
        "not_caught_up", 409, "尚未处理到 After 指定的位置, 请稍后再试", "This service has not yet read as far as After asks; try again"
    ),
    ProblemType("id_invalid", 400, "路径中的编号须为 UUID", "An id in the path must be a UUID"),
    ProblemType("stream_invalid", 400, "流名须为 类别-UUID", "A stream is named category-uuid"),
    ProblemType("parameter_unknown", 400, "未知的查询参数", "This query does not know the parameter"),
    ProblemType("parameter_repeated", 400, "查询参数重复", "A parameter is given twice"),
    ProblemType("parameter_invalid", 400, "查询参数的值不对", "A parameter has a wrong value"),
    ProblemType("cursor_invalid", 400, "cursor 无效", "The cursor was not given by this query with these filters"),
    ProblemType("token_missing", 401, "需要登录令牌", "A bearer token is needed"),
    ProblemType("token_too_large", 401, "令牌过大", "The token is larger than 8 KiB"),
    ProblemType("token_invalid", 401, "令牌无效", "The token is not one that this service accepts"),
    ProblemType("token_expired", 401, "令牌已过期或尚未生效", "The token has expired or does not count yet"),
    ProblemType("device_key_unknown", 401, "设备密钥无效", "The device's key is not known here"),
    ProblemType("device_key_expired", 401, "设备密钥已过期", "The device's key has expired"),
    ProblemType("device_key_revoked", 401, "设备密钥已吊销", "The device's key was revoked"),
    ProblemType("device_elsewhere", 403, "设备不在登记的网络内", "The device's key does not count from this network"),
    ProblemType("sign_in_needed", 401, "请先登录", "Sign in first"),
    ProblemType("sign_in_lost", 400, "登录已中断, 请重新开始", "The sign-in was lost on the way: begin again"),
    ProblemType("link_used", 410, "链接无效、已使用或已过期", "The link is not one, was used, or has expired"),
    ProblemType(
        "sign_in_erased",
        410,
        "该登录所对应的个人信息已删除, 须以新的身份登记",
        "The data of whom this signs in were erased: they come as somebody new, and sign in by another way",
    ),
    ProblemType("provider_away", 502, "统一认证暂时不可用", "The sign-in provider does not answer as it should"),
    ProblemType("form_unsupported", 415, "只接受网页表单", "Only a form is taken here"),
    ProblemType("form_invalid", 400, "表单内容有误", "The form cannot be read"),
    ProblemType("form_foreign", 403, "请求不是从本站页面发出, 请刷新后重试", "The form was not sent by a page of this site: reload it"),
    ProblemType(
        "acting_as_invalid",
        400,
        "Acting-As 须为 角色@单位",
        "Acting-As must be a role and its unit: role@unit",
    ),
    ProblemType("role_ambiguous", 403, "持有多个可用角色, 请用 Acting-As 指明", "Several roles held may do this: name one in Acting-As"),
    ProblemType("role_not_allowed", 403, "该角色无权进行此操作", "The role may not do this"),
    ProblemType("role_not_held", 403, "未被授予该角色", "The role was not granted to who asks, as far as this service has heard"),
    ProblemType("role_withdrawn", 403, "该角色已被收回", "The role has been withdrawn"),
    ProblemType("not_found", 404, "没有此地址", "There is nothing at this address"),
    ProblemType("method_not_allowed", 405, "此地址不接受该方法", "This address does not take the method"),
    ProblemType("stream_conflict", 409, "同一对象正被他人更改, 请重试", "Others kept changing the same stream; try again"),
    ProblemType("event_too_large", 422, "内容过大, 无法记录", "A fact would be larger than the log takes"),
    ProblemType("too_many_requests", 429, "请求过多, 请稍后再试", "Too many requests, of one caller or of all; try again"),
    ProblemType("internal_error", 500, "服务内部错误", "Something went wrong inside the service"),
    ProblemType(
        "store_unavailable",
        503,
        "数据库暂时不可用; 命令结果未知, 请以相同的 Idempotency-Key 重试",
        "The database does not answer; repeat with the same Idempotency-Key",
    ),
    ProblemType("log_closed", 503, "日志暂停写入", "The log is closed for appends for now"),
)
"""The problems that every service shares."""

RETRY_AFTER_SECONDS: Final[Mapping[str, int]] = {
    "not_caught_up": 1,
    "stream_conflict": 1,
    "too_many_requests": 1,
    "store_unavailable": 2,
    "log_closed": 10,
}
"""After how long a caller may try again, by code: these always carry `Retry-After`."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All problem types of one service: the shared ones and its refusals."""

    types: Mapping[str, ProblemType]
    refusals: frozenset[str] = field(default_factory=frozenset)

    def __iter__(self) -> Iterator[ProblemType]:
        return iter(self.types.values())

    def response(self, problem: ProblemError, language: str) -> Response:
        """The answer for a problem: the title in `language` (`zh` or `en`), both always present as `title_zh` and `title_en`."""
        type_ = self.types[problem.code]
        body = {
            "type": f"/problems/{type_.code}",
            "title": type_.en if language == "en" else type_.zh,
            "status": type_.status,
            "code": type_.code,
            "title_zh": type_.zh,
            "title_en": type_.en,
            **problem.members,
        }
        headers = {"Content-Language": language, **problem.headers}
        if type_.code in RETRY_AFTER_SECONDS:
            headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS[type_.code]))
        if type_.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(to_json(body), type_.status, headers, MEDIA_TYPE)


def catalogue(refusals: Mapping[str, RefusalText]) -> Catalogue:
    """The shared problems and a service's refusals in one table. Raises ValueError when a refusal takes a shared code."""
    doubled = PROBLEMS.keys() & refusals.keys()
    if doubled:
        raise ValueError(f"refusals repeat shared problem codes: {sorted(doubled)}")
    own = {code: ProblemType(code, text.status, text.zh, text.en) for code, text in refusals.items()}
    return Catalogue({**PROBLEMS, **own}, frozenset(refusals))
