"""Who has read personal data: the list for auditors, the same in every service."""

from collections.abc import Mapping
from typing import Final

from shared.http.query import Column, Filter, Query
from shared.permissions import Role

WHY: Final[Mapping[str, tuple[str, str]]] = {
    "identity_check": ("核对身份", "to check who somebody is"),
    "contact": ("联系本人", "to get in touch with the person"),
    "correction": ("更正信息", "to correct what is recorded"),
    "certificate": ("出具证明", "to write a certificate"),
    "complaint": ("处理投诉或异议", "to settle a complaint or an objection"),
    "authority_request": ("主管机关依法要求", "an authority asks for it by law"),
    "own copy": ("本人副本", "the person's own copy"),
    "copy for the person": ("代本人取副本", "a copy for the person"),
    "list": ("查阅名册", "a list"),
}
"""What each `ReadReason` is called."""

READS: Final = Query(
    name="personal_data_reads",
    path="/personal-data-reads",
    sql="""
        SELECT number, at, actor, acting_as, unit, subjects, fields, what, why FROM api.personal_data_reads
        WHERE ($1::uuid IS NULL OR subjects LIKE '%' || $1::text || '%') AND ($2::uuid IS NULL OR actor = $2)
          AND ($3::text IS NULL OR what = $3)
          AND ($4::bigint IS NULL OR number > $4)
        ORDER BY number LIMIT $5
    """,
    columns=(
        Column("number", "integer", "序号", "Number", plain=True),
        Column("at", "instant", "时间", "At"),
        Column("actor", "uuid", "查阅人", "Who"),
        Column("acting_as", "text", "角色", "Role"),
        Column("unit", "text", "单位代码", "Unit's code"),
        Column("subjects", "text", "被查阅人", "About whom"),
        Column("fields", "text", "字段", "Fields"),
        Column("what", "text", "方式", "How"),
        Column("why", "text", "理由", "Why", words=WHY),
    ),
    order=("number",),
    roles=frozenset({Role.AUDITOR, Role.BUREAU_ADMIN}),
    title_zh="个人信息查阅记录",
    title_en="Reads of personal data",
    filters=(
        Filter("subject", "uuid", "被查阅人", "About whom"),
        Filter("actor", "uuid", "查阅人", "Who"),
        Filter("what", "text", "方式", "How"),
    ),
)
"""Persons are named by their random ids. `verify` proves the chain behind it."""
