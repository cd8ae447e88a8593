CREATE VIEW api.programmes AS
SELECT year, title, theme, issuing_body, document_reference, issued_on, starts_on, ends_on FROM programmes;
COMMENT ON VIEW api.programmes IS '年度活动方案 / The programmes, one a year';
COMMENT ON COLUMN api.programmes.year IS '年度 / Year';
COMMENT ON COLUMN api.programmes.title IS '名称 / Title';
COMMENT ON COLUMN api.programmes.theme IS '活动主题 / Theme';
COMMENT ON COLUMN api.programmes.issuing_body IS '发布机构 / The body that issued it';
COMMENT ON COLUMN api.programmes.document_reference IS '文号 / Document reference';
COMMENT ON COLUMN api.programmes.issued_on IS '发文日期 / Day of issue';
COMMENT ON COLUMN api.programmes.starts_on IS '开始日期 / First day';
COMMENT ON COLUMN api.programmes.ends_on IS '结束日期 / Last day';

CREATE VIEW api.programme_words AS
SELECT year, kind, code, name_zh, name_en, month, day FROM programme_words;
COMMENT ON VIEW api.programme_words IS '方案内容 / What a programme names: carriers, target groups, occasions';
COMMENT ON COLUMN api.programme_words.year IS '年度 / Year';
COMMENT ON COLUMN api.programme_words.kind IS '类别: carrier 载体, target_group 重点群体, occasion 时间节点 / Kind: carrier, target_group or occasion';
COMMENT ON COLUMN api.programme_words.code IS '代码 / Code, as activities name it';
COMMENT ON COLUMN api.programme_words.name_zh IS '中文名称 / Name in Chinese';
COMMENT ON COLUMN api.programme_words.name_en IS '英文名称 / Name in English';
COMMENT ON COLUMN api.programme_words.month IS '时间节点的月份 / Month of an occasion';
COMMENT ON COLUMN api.programme_words.day IS '时间节点的日 / Day of an occasion';

CREATE VIEW api.programme_proposals AS
SELECT proposal.proposal_id, proposal.year, proposal.state, proposal.is_new_year, proposal.proposed_at, proposal.proposed_by, proposal.expires_at,
       proposal.approved_by, proposal.ended_at, counted.units, counted.units_new, counted.units_changed,
       nullif(array_to_string(proposal.units_gone, ' '), '') AS units_gone, proposal.words,
       nullif(array_to_string(proposal.words_new, ' '), '') AS words_new, nullif(array_to_string(proposal.words_changed, ' '), '') AS words_changed,
       nullif(array_to_string(proposal.words_gone, ' '), '') AS words_gone, proposal.compared_with, proposal.file_digest, proposal.stream_id
FROM programme_proposals AS proposal CROSS JOIN LATERAL (
    SELECT count(*)::integer AS units, (count(*) FILTER (WHERE difference = 'new'))::integer AS units_new,
           (count(*) FILTER (WHERE difference = 'changed'))::integer AS units_changed
    FROM proposed_units WHERE proposed_units.proposal_id = proposal.proposal_id
) AS counted;
COMMENT ON VIEW api.programme_proposals IS '待批准的方案导入 / Programmes proposed for import, and what became of them';
COMMENT ON COLUMN api.programme_proposals.proposal_id IS '提交标识, 由文件摘要得出 / Id of the proposal, which follows from the digest of the file';
COMMENT ON COLUMN api.programme_proposals.year IS '年度 / Year';
COMMENT ON COLUMN api.programme_proposals.state IS '状态: proposed 待批准, adopted 已批准, taken_back 撤回, rejected 未批准, lapsed 失效 / State: proposed, adopted, taken_back, rejected or lapsed';
COMMENT ON COLUMN api.programme_proposals.is_new_year IS '是否为新年度方案, 否则只增加单位 / Whether it is a whole year; else units follow in an adopted one';
COMMENT ON COLUMN api.programme_proposals.proposed_at IS '提交时间 / When it was proposed';
COMMENT ON COLUMN api.programme_proposals.proposed_by IS '提交人标识 / Who proposed it';
COMMENT ON COLUMN api.programme_proposals.expires_at IS '批准期限 / Until when it may be approved';
COMMENT ON COLUMN api.programme_proposals.approved_by IS '批准人标识 / Who approved it, if anybody did';
COMMENT ON COLUMN api.programme_proposals.ended_at IS '办结时间 / When it was approved, declined or lapsed';
COMMENT ON COLUMN api.programme_proposals.units IS '单位数 / Units that it would register';
COMMENT ON COLUMN api.programme_proposals.units_new IS '其中新增 / Of these new';
COMMENT ON COLUMN api.programme_proposals.units_changed IS '其中有改动 / Of these said otherwise than before';
COMMENT ON COLUMN api.programme_proposals.units_gone IS '不再列出的单位代码 / Codes of units of the compared year that it does not name';
COMMENT ON COLUMN api.programme_proposals.words IS '载体, 重点群体, 时间节点的项数 / How many carriers, target groups and occasions';
COMMENT ON COLUMN api.programme_proposals.words_new IS '其中新增 / Of these new';
COMMENT ON COLUMN api.programme_proposals.words_changed IS '其中有改动 / Of these said otherwise than before';
COMMENT ON COLUMN api.programme_proposals.words_gone IS '不再列出的 / Those of the compared year that it does not name';
COMMENT ON COLUMN api.programme_proposals.compared_with IS '对比年度 / The year that it is compared with, the newest adopted';
COMMENT ON COLUMN api.programme_proposals.file_digest IS '文件的 SHA-256 摘要 / SHA-256 of the file';
COMMENT ON COLUMN api.programme_proposals.stream_id IS '日志流标识 / Id of the stream of its events';

CREATE VIEW api.proposed_units AS
SELECT proposal_id, code, difference, name, kind, parent_code, planned_activities_per_month, valid_from FROM proposed_units;
COMMENT ON VIEW api.proposed_units IS '待批准方案中的单位 / Units of proposed programmes, as they would be registered';
COMMENT ON COLUMN api.proposed_units.proposal_id IS '提交标识 / The proposal';
COMMENT ON COLUMN api.proposed_units.code IS '代码 / Code';
COMMENT ON COLUMN api.proposed_units.difference IS '与对比年度相比: new 新增, changed 有改动, same 不变 / Against the compared year: new, changed or same';
COMMENT ON COLUMN api.proposed_units.name IS '名称 / Name';
COMMENT ON COLUMN api.proposed_units.kind IS '类别: bureau 局, subordinate_unit 局属单位, office 科室 / Kind: bureau, subordinate_unit or office';
COMMENT ON COLUMN api.proposed_units.parent_code IS '上级单位代码 / Code of the unit above';
COMMENT ON COLUMN api.proposed_units.planned_activities_per_month IS '每月计划活动数 / Activities that it plans a month';
COMMENT ON COLUMN api.proposed_units.valid_from IS '启用日期 / The day from which it holds';

CREATE VIEW api.units WITH (security_barrier) AS
SELECT unit.code, unit.name, unit.kind, unit.parent_code, coalesce(above.name, unit.parent_code) AS parent_name, unit.aliases, unit.valid_from,
       unit.planned_activities_per_month
FROM units AS unit LEFT JOIN joined.units AS above ON above.code = unit.parent_code;
COMMENT ON VIEW api.units IS '单位 / Units, as the newest programme says';
COMMENT ON COLUMN api.units.code IS '代码 / Code, as tokens and files name it';
COMMENT ON COLUMN api.units.name IS '名称 / Name';
COMMENT ON COLUMN api.units.kind IS '类别: bureau 局, subordinate_unit 局属单位, office 科室 / Kind: bureau, subordinate_unit or office';
COMMENT ON COLUMN api.units.parent_code IS '上级单位代码 / Code of the unit above';
COMMENT ON COLUMN api.units.parent_name IS '上级单位名称 / Name of the unit above';
COMMENT ON COLUMN api.units.aliases IS '别名 / Other names';
COMMENT ON COLUMN api.units.valid_from IS '启用日期 / The day from which it holds';
COMMENT ON COLUMN api.units.planned_activities_per_month IS '每月计划活动数, 按最新方案 / Activities that it plans a month, by the newest programme';

CREATE VIEW api.roles AS
SELECT held.person_id, held.role, held.unit_code, coalesce(unit.name, held.unit_code) AS unit_name, held.is_held, held.since
FROM roles AS held LEFT JOIN units AS unit ON unit.code = held.unit_code;
COMMENT ON VIEW api.roles IS '授权记录 / Roles granted and withdrawn';
COMMENT ON COLUMN api.roles.person_id IS '人员标识 / The person';
COMMENT ON COLUMN api.roles.role IS '角色 / Role';
COMMENT ON COLUMN api.roles.unit_code IS '单位代码 / Code of the unit it is for';
COMMENT ON COLUMN api.roles.unit_name IS '单位名称 / Name of that unit';
COMMENT ON COLUMN api.roles.is_held IS '是否有效 / Whether it is held now';
COMMENT ON COLUMN api.roles.since IS '授权或收回时间 / When it was granted or withdrawn';

CREATE VIEW api.devices AS
SELECT device.device_id, device.unit_code, coalesce(unit.name, device.unit_code) AS unit_name, device.name, device.issued_at, device.expires_at,
       device.revoked_at, device.reason, nullif(array_to_string(device.networks, ' '), '') AS networks
FROM devices AS device LEFT JOIN units AS unit ON unit.code = device.unit_code;
COMMENT ON VIEW api.devices IS '签到设备 / Devices that check people in, by a key of their own';
COMMENT ON COLUMN api.devices.device_id IS '设备标识 / The device';
COMMENT ON COLUMN api.devices.unit_code IS '单位代码 / Code of its unit';
COMMENT ON COLUMN api.devices.unit_name IS '单位名称 / Name of that unit';
COMMENT ON COLUMN api.devices.name IS '设备名称 / What it is called';
COMMENT ON COLUMN api.devices.issued_at IS '登记时间 / When it was given its key';
COMMENT ON COLUMN api.devices.expires_at IS '有效期至 / Until when the key counts';
COMMENT ON COLUMN api.devices.networks IS '密钥有效的来源网络, 空为不限 / Networks from which the key counts; null: from anywhere';
COMMENT ON COLUMN api.devices.revoked_at IS '吊销时间 / When the key was revoked, if it was';
COMMENT ON COLUMN api.devices.reason IS '吊销原因 / Why';

CREATE VIEW api.activities AS
SELECT activity.activity_id, activity.unit_code, coalesce(unit.name, activity.unit_code) AS unit_name, activity.title, activity.carrier,
       coalesce(carrier.name_zh, activity.carrier) AS carrier_name_zh, coalesce(carrier.name_en, activity.carrier) AS carrier_name_en,
       activity.target_group, activity.occasion, activity.place,
       activity.starts_at, activity.ends_at, activity.has_risk, activity.state, activity.outcome,
       places.capacity, seats.taken, seats.offered, seats.waiting, activity.wait_list_max
FROM activities AS activity
LEFT JOIN units AS unit ON unit.code = activity.unit_code
LEFT JOIN programme_words AS carrier
    ON carrier.year = extract(year FROM activity.month)::integer AND carrier.kind = 'carrier' AND carrier.code = activity.carrier
CROSS JOIN LATERAL (
    SELECT coalesce(sum(capacity), 0)::bigint AS capacity FROM activity_positions AS one WHERE one.activity_id = activity.activity_id
) AS places
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE standing = 'seated') AS taken, count(*) FILTER (WHERE standing = 'offered') AS offered,
           count(*) FILTER (WHERE standing = 'waiting') AS waiting
    FROM enrollments AS one WHERE one.activity_id = activity.activity_id
) AS seats;
COMMENT ON VIEW api.activities IS '活动与名额 / Activities with their seats';
COMMENT ON COLUMN api.activities.activity_id IS '活动标识 / The activity';
COMMENT ON COLUMN api.activities.unit_code IS '举办单位代码 / Code of the unit that holds it';
COMMENT ON COLUMN api.activities.unit_name IS '举办单位名称 / Name of the unit that holds it';
COMMENT ON COLUMN api.activities.title IS '名称 / Title';
COMMENT ON COLUMN api.activities.carrier IS '活动载体代码 / Code of the carrier';
COMMENT ON COLUMN api.activities.carrier_name_zh IS '活动载体, 按当年方案 / The carrier in Chinese, as the programme of the year names it';
COMMENT ON COLUMN api.activities.carrier_name_en IS '活动载体的英文名称 / The carrier in English';
COMMENT ON COLUMN api.activities.target_group IS '重点群体代码 / Code of the target group';
COMMENT ON COLUMN api.activities.occasion IS '时间节点代码 / Code of the occasion';
COMMENT ON COLUMN api.activities.place IS '地点 / Place';
COMMENT ON COLUMN api.activities.starts_at IS '开始时间 / Start';
COMMENT ON COLUMN api.activities.ends_at IS '结束时间 / End';
COMMENT ON COLUMN api.activities.has_risk IS '是否有风险 / Whether it has risks, so that minors stay away';
COMMENT ON COLUMN api.activities.state IS '状态: open 已发布, held 已举办, cancelled 已取消 / State: open, held or cancelled';
COMMENT ON COLUMN api.activities.outcome IS '活动成果或取消原因 / What came of it, or why it was cancelled';
COMMENT ON COLUMN api.activities.capacity IS '名额 / Seats, all positions together';
COMMENT ON COLUMN api.activities.taken IS '已录用 / Seats taken';
COMMENT ON COLUMN api.activities.offered IS '待确认递补 / Seats on offer';
COMMENT ON COLUMN api.activities.waiting IS '候补人数 / Persons on the wait-list';
COMMENT ON COLUMN api.activities.wait_list_max IS '候补上限 / How many may wait';

CREATE VIEW api.activity_positions AS
SELECT place.activity_id, place.position, place.name, place.capacity, seats.taken, seats.offered, seats.waiting
FROM activity_positions AS place
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE standing = 'seated') AS taken, count(*) FILTER (WHERE standing = 'offered') AS offered,
           count(*) FILTER (WHERE standing = 'waiting') AS waiting
    FROM enrollments AS one WHERE one.activity_id = place.activity_id AND one.position = place.position
) AS seats;
COMMENT ON VIEW api.activity_positions IS '岗位与名额 / Positions with their seats';
COMMENT ON COLUMN api.activity_positions.activity_id IS '活动标识 / The activity';
COMMENT ON COLUMN api.activity_positions.position IS '岗位代码 / Code of the position';
COMMENT ON COLUMN api.activity_positions.name IS '岗位名称 / Name of the position';
COMMENT ON COLUMN api.activity_positions.capacity IS '名额 / Seats';
COMMENT ON COLUMN api.activity_positions.taken IS '已录用 / Seats taken';
COMMENT ON COLUMN api.activity_positions.offered IS '待确认递补 / Seats on offer';
COMMENT ON COLUMN api.activity_positions.waiting IS '候补人数 / Persons on the wait-list';

CREATE VIEW api.unit_months WITH (security_barrier) AS
SELECT month.month::date AS month, to_char(month.month, 'YYYY-MM') AS year_month,
       month.month::date > (SELECT month FROM joined.last_month) AS is_ahead, unit.code AS unit_code,
       unit.name AS unit_name, coalesce(plan.planned, 0)::bigint AS planned,
       counted.published, counted.held, counted.cancelled
FROM programmes AS programme
CROSS JOIN LATERAL generate_series(
    date_trunc('month', programme.starts_on::timestamp), programme.ends_on::timestamp, interval '1 month'
) AS month (month)
CROSS JOIN units AS unit
LEFT JOIN unit_plans AS plan ON plan.year = programme.year AND plan.code = unit.code
CROSS JOIN LATERAL (
    SELECT count(*) AS published, count(*) FILTER (WHERE state = 'held') AS held, count(*) FILTER (WHERE state = 'cancelled') AS cancelled
    FROM activities AS one WHERE one.unit_code = unit.code AND one.month = month.month::date
) AS counted
WHERE plan.valid_from < (month.month + interval '1 month') OR counted.published > 0;
COMMENT ON VIEW api.unit_months IS '各单位每月计划与举办 / What each unit planned and held, by month of the start';
COMMENT ON COLUMN api.unit_months.month IS '月份的第一天 / First day of the month';
COMMENT ON COLUMN api.unit_months.year_month IS '年-月 / Year and month';
COMMENT ON COLUMN api.unit_months.is_ahead IS '此月及以后尚未发布活动 / Whether nothing is published yet for this month or a later one';
COMMENT ON COLUMN api.unit_months.unit_code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.unit_months.unit_name IS '单位名称 / Name of the unit';
COMMENT ON COLUMN api.unit_months.planned IS '计划活动数, 按当年方案 / Activities planned, as the programme of the year says';
COMMENT ON COLUMN api.unit_months.published IS '已发布活动数 / Activities published, whatever became of them';
COMMENT ON COLUMN api.unit_months.held IS '已举办活动数 / Activities held';
COMMENT ON COLUMN api.unit_months.cancelled IS '已取消活动数 / Activities cancelled';

-- What is withdrawn is hidden at once, also where the person's own events wait behind a parked one (D8).
CREATE VIEW api.volunteers AS
SELECT known.volunteer_id, known.number, known.unit_code, coalesce(unit.name, known.unit_code) AS unit_name,
       CASE WHEN gone.position > known.registered_position THEN NULL ELSE left(known.name, 1) || '**' END AS masked_name,
       known.is_minor, CASE WHEN gone.position > known.registered_position THEN NULL ELSE known.skills END AS skills,
       CASE WHEN known.standing = 'registered' AND gone.position > known.registered_position THEN 'left' ELSE known.standing END AS standing,
       (known.named_position IS NOT NULL AND coalesce(unsaid.position, 0) < known.named_position
        AND coalesce(gone.position, 0) < known.registered_position) AS may_be_named,
       known.is_place_known, known.registered_at
FROM volunteers AS known
LEFT JOIN units AS unit ON unit.code = known.unit_code
LEFT JOIN consumer.withdrawn AS gone ON gone.subject = known.volunteer_id AND gone.kind = 'person'
LEFT JOIN consumer.withdrawn AS unsaid ON unsaid.subject = known.volunteer_id AND unsaid.kind = 'consent:be_named';
COMMENT ON VIEW api.volunteers IS '志愿者 / Volunteers; names are masked, and gone for who left';
COMMENT ON COLUMN api.volunteers.volunteer_id IS '志愿者标识 / The volunteer';
COMMENT ON COLUMN api.volunteers.number IS '志愿者编号 / Public number';
COMMENT ON COLUMN api.volunteers.unit_code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.volunteers.unit_name IS '单位名称 / Name of the unit';
COMMENT ON COLUMN api.volunteers.masked_name IS '隐去后的姓名 / Name, all but the first character masked';
COMMENT ON COLUMN api.volunteers.is_minor IS '注册时未成年 / Under 18 when registered';
COMMENT ON COLUMN api.volunteers.skills IS '服务技能, 一行一项 / Skills, one a line; gone for who left';
COMMENT ON COLUMN api.volunteers.standing IS '状态: registered 已注册, left 已退出, erased 个人信息已删除 / Standing: registered, left or erased';
COMMENT ON COLUMN api.volunteers.may_be_named IS '是否同意公开姓名 / Whether the person consented to be named in public';
COMMENT ON COLUMN api.volunteers.is_place_known IS '身份证号地区代码是否可识别, 仅供核对 / Whether the ID number begins with the code of a place: a warning';
COMMENT ON COLUMN api.volunteers.registered_at IS '注册时间 / When registered';

CREATE VIEW api.named_volunteers WITH (security_barrier) AS
SELECT known.number, clear.name, known.unit_code, known.unit_name
FROM api.volunteers AS known JOIN volunteers AS clear USING (volunteer_id)
WHERE known.may_be_named AND known.standing = 'registered' AND clear.name IS NOT NULL;
COMMENT ON VIEW api.named_volunteers IS '同意公开姓名的志愿者 / Volunteers who agreed to be named in public, for as long as they do';
COMMENT ON COLUMN api.named_volunteers.number IS '志愿者编号 / Public number';
COMMENT ON COLUMN api.named_volunteers.name IS '姓名 / Name';
COMMENT ON COLUMN api.named_volunteers.unit_code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.named_volunteers.unit_name IS '单位名称 / Name of the unit';

CREATE VIEW api.erasures AS
SELECT erasure.volunteer_id, erasure.state, erasure.log_id, erasure.requested_at, erasure.requested_by, erasure.requested_position,
       erasure.declined_as, erasure.erased_at, erasure.approved_by, erasure.erased_position, erasure.registration_receipt_at,
       erasure.sign_in_destroyed, erasure.hours_receipt_at, erasure.hours_position, erasure.recognition_receipt_at, erasure.recognition_position,
       erasure.completed_at, erasure.completed_position
FROM erasures AS erasure;
COMMENT ON VIEW api.erasures IS '个人信息删除及其证明 / Erasures of personal data, and the proof of each; names nobody';
COMMENT ON COLUMN api.erasures.volunteer_id IS '志愿者标识, 随机数 / The person, by a random id that says nothing';
COMMENT ON COLUMN api.erasures.state IS '状态: requested 待批准, declined 未删除, erased 已批准, completed 已完成 / State';
COMMENT ON COLUMN api.erasures.log_id IS '日志标识 / Id of the log whose positions these are';
COMMENT ON COLUMN api.erasures.requested_at IS '申请时间 / When it was asked for';
COMMENT ON COLUMN api.erasures.requested_by IS '申请人 / Who asked';
COMMENT ON COLUMN api.erasures.requested_position IS '申请在日志中的位置 / Position of the request';
COMMENT ON COLUMN api.erasures.declined_as IS '未删除的原因代码 / Why it was declined';
COMMENT ON COLUMN api.erasures.erased_at IS '批准时间 / When a second person approved it';
COMMENT ON COLUMN api.erasures.approved_by IS '批准人 / Who approved it, and in which role';
COMMENT ON COLUMN api.erasures.erased_position IS '批准在日志中的位置 / Position of the approval';
COMMENT ON COLUMN api.erasures.registration_receipt_at IS '登记服务已清除 / When registration had done its part';
COMMENT ON COLUMN api.erasures.sign_in_destroyed IS '登录名, 密码, 会话与登录链接已销毁 / Whether login, password, sessions and links went with it';
COMMENT ON COLUMN api.erasures.hours_receipt_at IS '时长服务已清除 / When hours had said so';
COMMENT ON COLUMN api.erasures.hours_position IS '时长服务日志中的位置 / Where it says so in its own log';
COMMENT ON COLUMN api.erasures.recognition_receipt_at IS '评星服务已清除 / When recognition had said so';
COMMENT ON COLUMN api.erasures.recognition_position IS '评星服务日志中的位置 / Where it says so in its own log';
COMMENT ON COLUMN api.erasures.completed_at IS '完成时间 / When all had said so';
COMMENT ON COLUMN api.erasures.completed_position IS '完成在日志中的位置 / Position of that';

CREATE VIEW api.enrollments WITH (security_barrier) AS
SELECT seat.activity_id, activity.title, activity.unit_code, seat.volunteer_id, known.number, known.unit_code AS volunteer_unit_code,
       seat.position, seat.standing, seat.expires_at, seat.since
FROM enrollments AS seat
JOIN joined.activities AS activity USING (activity_id)
LEFT JOIN joined.volunteers AS known USING (volunteer_id);
COMMENT ON VIEW api.enrollments IS '报名 / Enrolments, as each stands now';
COMMENT ON COLUMN api.enrollments.activity_id IS '活动标识 / The activity';
COMMENT ON COLUMN api.enrollments.title IS '活动名称 / Title of the activity';
COMMENT ON COLUMN api.enrollments.unit_code IS '举办单位代码 / Code of the unit that holds the activity';
COMMENT ON COLUMN api.enrollments.volunteer_id IS '志愿者标识 / The volunteer';
COMMENT ON COLUMN api.enrollments.number IS '志愿者编号 / Public number';
COMMENT ON COLUMN api.enrollments.volunteer_unit_code IS '志愿者所属单位代码 / Code of the unit that the volunteer belongs to';
COMMENT ON COLUMN api.enrollments.position IS '岗位代码 / Code of the position';
COMMENT ON COLUMN api.enrollments.standing IS '状态: seated 已录用, offered 待确认, waiting 候补, withdrawn 已取消, expired 递补失效 / Standing';
COMMENT ON COLUMN api.enrollments.expires_at IS '递补确认截止 / Until when the offer stands';
COMMENT ON COLUMN api.enrollments.since IS '自何时 / Since when';

CREATE VIEW api.clashes_overridden AS
SELECT over.activity_id, over.volunteer_id, over.clashes_with,
       CASE WHEN gone.position > coalesce(known.registered_position, 0) THEN NULL ELSE over.reason END AS reason, over.overridden_at
FROM clashes_overridden AS over
LEFT JOIN volunteers AS known USING (volunteer_id)
LEFT JOIN consumer.withdrawn AS gone ON gone.subject = over.volunteer_id AND gone.kind = 'person';
COMMENT ON VIEW api.clashes_overridden IS '时间冲突特批 / Overlapping times that a coordinator allowed';
COMMENT ON COLUMN api.clashes_overridden.activity_id IS '活动标识 / The activity enrolled in';
COMMENT ON COLUMN api.clashes_overridden.volunteer_id IS '志愿者标识 / The volunteer';
COMMENT ON COLUMN api.clashes_overridden.clashes_with IS '冲突的活动 / The activity at the same time';
COMMENT ON COLUMN api.clashes_overridden.reason IS '特批理由 / Why it was allowed; gone for who left';
COMMENT ON COLUMN api.clashes_overridden.overridden_at IS '特批时间 / When it was allowed';

CREATE VIEW api.volunteer_overview AS
SELECT known.volunteer_id, known.number, known.unit_code, known.unit_name,
       coalesce(minutes.timed, 0) AS timed_minutes, coalesce(minutes.back_entered, 0) AS back_entered_minutes,
       coalesce(minutes.transferred, 0) AS transferred_minutes, coalesce(minutes.over_cap, 0) AS over_cap_minutes,
       coalesce((SELECT max(star.stars) FROM volunteer_stars AS star WHERE star.volunteer_id = known.volunteer_id AND star.is_held), 0)::bigint
           AS stars,
       known.standing
FROM api.volunteers AS known LEFT JOIN volunteer_minutes AS minutes USING (volunteer_id);
COMMENT ON VIEW api.volunteer_overview IS '志愿者总览: 三个服务的数据 / Volunteers across registration, hours and recognition';
COMMENT ON COLUMN api.volunteer_overview.volunteer_id IS '志愿者标识 / The volunteer';
COMMENT ON COLUMN api.volunteer_overview.number IS '志愿者编号 / Public number';
COMMENT ON COLUMN api.volunteer_overview.unit_code IS '单位代码 / Code of the unit';
COMMENT ON COLUMN api.volunteer_overview.unit_name IS '单位名称 / Name of the unit';
COMMENT ON COLUMN api.volunteer_overview.timed_minutes IS '系统计时分钟数 / Minutes timed';
COMMENT ON COLUMN api.volunteer_overview.back_entered_minutes IS '补录分钟数 / Minutes entered afterwards';
COMMENT ON COLUMN api.volunteer_overview.transferred_minutes IS '转入分钟数 / Minutes brought from elsewhere';
COMMENT ON COLUMN api.volunteer_overview.over_cap_minutes IS '超出每日上限的分钟数 / Minutes above the daily cap';
COMMENT ON COLUMN api.volunteer_overview.stars IS '现有最高星级 / The highest star held';
COMMENT ON COLUMN api.volunteer_overview.standing IS '状态 / Standing: registered, left or erased';

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
