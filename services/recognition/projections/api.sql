-- What admins read. Every column says what it is, in Chinese and English; minutes are integers.

CREATE VIEW api.stars AS
SELECT held.volunteer_id, held.stars, held.unit_code, coalesce(unit.name, held.unit_code) AS unit_name, held.granted_at,
       held.confirmed_minutes, held.threshold_minutes, held.policy_version, held.hours_position, held.granted_position
FROM stars AS held LEFT JOIN units AS unit ON unit.code = held.unit_code;

COMMENT ON VIEW api.stars IS '现有星级: 每名志愿者现持有的每一颗星 / Stars held: one row for each star that a volunteer holds now';
COMMENT ON COLUMN api.stars.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.stars.stars IS '第几星, 从 1 起 / Which star, from 1';
COMMENT ON COLUMN api.stars.unit_code IS '申请时所属单位 / The volunteer''s unit when the star was applied for';
COMMENT ON COLUMN api.stars.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.stars.granted_at IS '评定时间 / When it was granted';
COMMENT ON COLUMN api.stars.confirmed_minutes IS '评定时已认定的分钟数, 不含超出每日上限的部分 / Minutes confirmed at that moment, without what lay above the daily cap';
COMMENT ON COLUMN api.stars.threshold_minutes IS '该星所需分钟数 / Minutes that this star needed';
COMMENT ON COLUMN api.stars.policy_version IS '所依据的规则版本 / Version of the star policy it was decided under';
COMMENT ON COLUMN api.stars.hours_position IS '时长所依据的时长日志位置 / Last position of the hours log that the minutes rest on';
COMMENT ON COLUMN api.stars.granted_position IS '评定在本日志中的位置 / Position of the grant in this service''s log';

CREATE VIEW api.star_history AS
SELECT said.position, said.volunteer_id, said.stars, said.unit_code, coalesce(unit.name, said.unit_code) AS unit_name, said.outcome,
       said.reason, said.decided_at, said.confirmed_minutes, said.threshold_minutes, said.policy_version, said.hours_position
FROM star_history AS said LEFT JOIN units AS unit ON unit.code = said.unit_code;

COMMENT ON VIEW api.star_history IS '评星记录: 每一次评定、未评、撤星与撤销 / Star history: every grant, decline, withdrawal and revocation';
COMMENT ON COLUMN api.star_history.position IS '在本日志中的位置 / Position in this service''s log';
COMMENT ON COLUMN api.star_history.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.star_history.stars IS '第几星, 从 1 起 / Which star, from 1';
COMMENT ON COLUMN api.star_history.unit_code IS '申请时所属单位 / The volunteer''s unit when the star was applied for';
COMMENT ON COLUMN api.star_history.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.star_history.outcome IS '结果: granted 已评星, declined 未评星, withdrawn 已撤星 (时长更正所致), revoked 经两人决定撤销 / Outcome: granted, declined, withdrawn (hours were corrected) or revoked (by two persons)';
COMMENT ON COLUMN api.star_history.reason IS '未评、撤星或撤销的原因 / Why it was declined, withdrawn or revoked';
COMMENT ON COLUMN api.star_history.decided_at IS '时间 / When it was decided';
COMMENT ON COLUMN api.star_history.confirmed_minutes IS '当时已认定的分钟数, 撤销时为空 / Minutes confirmed at that moment; null of a revocation, which rests on none';
COMMENT ON COLUMN api.star_history.threshold_minutes IS '该星所需分钟数, 撤销时为空 / Minutes that this star needs; null of a revocation';
COMMENT ON COLUMN api.star_history.policy_version IS '所依据的规则版本, 撤销时为空 / Version of the star policy it was decided under; null of a revocation';
COMMENT ON COLUMN api.star_history.hours_position IS '时长所依据的时长日志位置, 撤销时为空 / Last position of the hours log that the minutes rest on; null of a revocation';

CREATE VIEW api.star_revocations AS
SELECT proposal.proposal_id, proposal.volunteer_id, proposal.stars, proposal.unit_code, coalesce(unit.name, proposal.unit_code) AS unit_name,
       proposal.state, proposal.reason, proposal.proposed_at, proposal.proposed_by, proposal.proposed_position, proposal.decided_by,
       proposal.ended_at
FROM star_revocations AS proposal LEFT JOIN units AS unit ON unit.code = proposal.unit_code;

COMMENT ON VIEW api.star_revocations IS '星级撤销: 每一项提出的撤销及其结果 / Revocations of stars: every one that was proposed, and what became of it';
COMMENT ON COLUMN api.star_revocations.proposal_id IS '提出标识, 决定文件据此注明 / Id of the proposal, by which a document names it';
COMMENT ON COLUMN api.star_revocations.volunteer_id IS '志愿者编码 / The volunteer''s id';
COMMENT ON COLUMN api.star_revocations.stars IS '自第几星起撤销, 以上各星一并撤销 / From which star on; those above it go with it';
COMMENT ON COLUMN api.star_revocations.unit_code IS '申请该星时所属单位 / The volunteer''s unit when that star was applied for';
COMMENT ON COLUMN api.star_revocations.unit_name IS '该单位的名称 / Name of that unit';
COMMENT ON COLUMN api.star_revocations.state IS '状态: proposed 待批准, revoked 已撤销, taken_back 撤回, rejected 未批准, lapsed 失效 (该星已不在) / State: proposed, revoked, taken_back, rejected or lapsed (the star went otherwise)';
COMMENT ON COLUMN api.star_revocations.reason IS '原因: false_record 记录不实, hidden_faults 隐瞒问题, serious_dishonesty 严重失信, discipline_or_crime 违纪违法, moral_failure 道德失范, own_wish 本人意愿 / Why, as a code';
COMMENT ON COLUMN api.star_revocations.proposed_at IS '提出时间 / When it was proposed';
COMMENT ON COLUMN api.star_revocations.proposed_by IS '提出人标识 / Who proposed it';
COMMENT ON COLUMN api.star_revocations.proposed_position IS '提出在本日志中的位置 / Position of the proposal in this service''s log';
COMMENT ON COLUMN api.star_revocations.decided_by IS '决定人标识: 批准、否决或撤回之人 / Who approved it, rejected it or took it back, if anybody did';
COMMENT ON COLUMN api.star_revocations.ended_at IS '办结时间 / When it ended';

CREATE VIEW api.star_policies AS
SELECT effective_from, version, thresholds_minutes,
       (SELECT string_agg(trim_scale(round(minutes / 60.0, 1))::text, ' / ' ORDER BY star)
        FROM unnest(thresholds_minutes) WITH ORDINALITY AS ladder (minutes, star)) AS thresholds_hours,
       reapply_after_revocation, adopted_at, position
FROM star_policies;

COMMENT ON VIEW api.star_policies IS '评星规则: 采用过的每一版 / Star policies: every version adopted';
COMMENT ON COLUMN api.star_policies.effective_from IS '生效日期 / The day from which it holds';
COMMENT ON COLUMN api.star_policies.version IS '规则版本 / Version';
COMMENT ON COLUMN api.star_policies.thresholds_minutes IS '一星起各星所需分钟数 / Minutes that each star needs, from the first';
COMMENT ON COLUMN api.star_policies.thresholds_hours IS '一星起各星所需小时数 / Hours that each star needs, from the first';
COMMENT ON COLUMN api.star_policies.reapply_after_revocation IS '被撤销的星级可否再申请 / Whether a star that was revoked may be applied for again';
COMMENT ON COLUMN api.star_policies.adopted_at IS '采用时间 / When it was adopted';
COMMENT ON COLUMN api.star_policies.position IS '采用在本日志中的位置 / Position of the adoption in this service''s log';

CREATE VIEW api.units AS SELECT code, name FROM units;

COMMENT ON VIEW api.units IS '单位: 登记服务最后所说的名称 / Units: what each is called, as registration said last';
COMMENT ON COLUMN api.units.code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.units.name IS '单位名称 / Name of the unit';

CREATE VIEW api.personal_data_reads AS
SELECT number, at, actor, role AS acting_as, unit, array_to_string(subjects, ' ') AS subjects, array_to_string(fields, ' ') AS fields, what, reason AS why
FROM audit.read;
COMMENT ON VIEW api.personal_data_reads IS '个人信息查阅记录 / Who has read personal data, about whom, which fields, why';
COMMENT ON COLUMN api.personal_data_reads.number IS '序号 / Number in the chain';
COMMENT ON COLUMN api.personal_data_reads.at IS '时间 / When';
COMMENT ON COLUMN api.personal_data_reads.actor IS '查阅人标识 / Who read, by a random id';
COMMENT ON COLUMN api.personal_data_reads.acting_as IS '角色 / In which role';
COMMENT ON COLUMN api.personal_data_reads.unit IS '单位代码 / For which unit';
COMMENT ON COLUMN api.personal_data_reads.subjects IS '被查阅人标识 / About whom, by random ids';
COMMENT ON COLUMN api.personal_data_reads.fields IS '字段 / Which fields';
COMMENT ON COLUMN api.personal_data_reads.what IS '方式: reveal 查看原文, copy 副本, 或列表名 / How: reveal, copy, or the name of a list';
COMMENT ON COLUMN api.personal_data_reads.why IS '理由 / Why';
