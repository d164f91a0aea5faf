#!/bin/sh
# Starts the MLflow server, the same under compose and on Kubernetes: records and users in PostgreSQL, files in an S3 store,
# a name and a password for everyone. Each secret is a file: an environment is shown by `docker inspect` and crash reports.
set -eu
umask 077

secrets="${SECRETS:-/run/secrets}"
database="postgresql+pg8000://mlflow:$(cat "$secrets/postgres_password")@${POSTGRES_HOST:-postgres:5432}/mlflow"

# Without these two files, the S3 store is reached by the role of the machine.
if [ -e "$secrets/s3_access_key_id" ]; then
    AWS_ACCESS_KEY_ID="$(cat "$secrets/s3_access_key_id")"
    AWS_SECRET_ACCESS_KEY="$(cat "$secrets/s3_secret_access_key")"
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
fi

MLFLOW_BACKEND_STORE_URI="$database"
MLFLOW_AUTH_ADMIN_PASSWORD="$(cat "$secrets/admin_password")" # read at the first start only
MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$secrets/flask_secret_key")"
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
export MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH

# EDIT: an experiment is a task, which all searches of all users write to.
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = EDIT
database_uri = $database
admin_username = admin
# A password is hashed once a minute and user, not at each request, which took 0.1 s of CPU; a changed one counts after that.
auth_cache_ttl_seconds = 60
INI

exec mlflow server --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" --app-name basic-auth \
    --artifacts-destination "${ARTIFACTS:-s3://mlflow}"
