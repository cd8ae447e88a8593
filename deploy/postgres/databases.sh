#!/bin/bash
# First start of the PostgreSQL container: one database and one owner role for each service, as the local stack has them.
# The owner is no superuser; it may make roles, for the readers of its views. What only a superuser can forbid is forbidden here, by
# shared/access/locks.sql, which lies beside this script under a name that the container does not run by itself.
set -euo pipefail

for service in registration hours recognition; do
    password_variable="${service^^}_PASSWORD"
    # The password goes in by a pipe and as a value of psql, which quotes it.
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres << SQL
\\getenv password ${password_variable}
create role leifeng_${service} login createrole nosuperuser password :'password';
create database leifeng_${service} owner leifeng_${service} template template0;
revoke connect, temporary on database leifeng_${service} from public;
SQL
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=owner="leifeng_${service}" \
        --username "$POSTGRES_USER" --dbname "leifeng_${service}" --file "${BASH_SOURCE[0]%/*}/locks.psql"
done
