#!/bin/sh
# Starts the MLflow server, under compose and on Kubernetes: runs and users in PostgreSQL, files in an S3 store, and a login for
# every user. Each secret is a file, because `docker inspect` and crash reports show environment variables.
set -eu
umask 077

secrets="${SECRETS:-/run/secrets}"
database="postgresql+pg8000://mlflow:$(cat "$secrets/postgres_password")@${POSTGRES_HOST:-postgres:5432}/mlflow"

# Without these two files, the machine's role gives access to the S3 store.
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

# EDIT: searches of all users write to the experiment of their task.
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = EDIT
database_uri = $database
admin_username = admin
# Hashes a password once a minute for each user, not for each request (0.1 s of CPU); a new password works after that time.
auth_cache_ttl_seconds = 60
INI

exec mlflow server --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" --app-name basic-auth \
    --artifacts-destination "${ARTIFACTS:-s3://mlflow}"
