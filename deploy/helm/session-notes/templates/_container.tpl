{{/* The sidecar's container, in your pod or in its own. */}}

{{- define "session-notes.socket" -}}
unix:/run/session-notes/sidecar/grpc.sock
{{- end }}

{{- define "session-notes.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.user }}
  runAsGroup: {{ .Values.user }}
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end }}

{{- define "session-notes.mounts" -}}
- name: session-notes-socket
  mountPath: /run/session-notes
{{- if not .Values.redis.url }}
- name: session-notes-data
  mountPath: /var/lib/session-notes
{{- end }}
{{- if .Values.redis.secret }}
- name: session-notes-redis
  mountPath: /run/secrets/redis
  readOnly: true
{{- end }}
{{- if .Values.tokensSecret }}
- name: session-notes-tokens
  mountPath: /run/secrets/tokens
  readOnly: true
{{- end }}
{{- end }}

{{- define "session-notes.settings" -}}
- name: SESSION_NOTES_GRACE
  value: {{ printf "%vs" .Values.graceSeconds | quote }}
{{- with .Values.redis.url }}
- name: SESSION_NOTES_REDIS_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.redis.secret }}
- name: SESSION_NOTES_REDIS_PASSWORD_FILE
  value: /run/secrets/redis/password
{{- if .Values.redis.ca }}
- name: SESSION_NOTES_REDIS_CA
  value: /run/secrets/redis/ca.pem
{{- end }}
{{- end }}
{{- if .Values.tokensSecret }}
- name: SESSION_NOTES_TOKENS_DIR
  value: /run/secrets/tokens
{{- end }}
{{- /* Time to stop, mounts and volumes depend on these values. Besides, a variable must not be in the list twice. */}}
{{- $values := dict "SESSION_NOTES_GRACE" "graceSeconds" "SESSION_NOTES_REDIS_URL" "redis.url"
  "SESSION_NOTES_REDIS_PASSWORD_FILE" "redis.secret" "SESSION_NOTES_REDIS_CA" "redis.ca"
  "SESSION_NOTES_TOKENS_DIR" "tokensSecret" }}
{{- range $name, $value := .Values.settings }}
{{- with get $values $name }}
{{- fail (printf "settings.%s: set %s instead" $name .) }}
{{- end }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* The port of metrics and HTTP probes. Empty if they are off, or on loopback, which the kubelet cannot reach. */}}
{{- define "session-notes.metricsPort" -}}
{{- $address := .Values.settings.SESSION_NOTES_METRICS_LISTEN | default "" -}}
{{- if not (regexMatch "^(localhost|127\\.[0-9.]+|\\[::1\\]):" $address) -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end -}}
{{- end }}

{{- define "session-notes.ports" -}}
{{- with include "session-notes.metricsPort" . -}}
- name: metrics
  containerPort: {{ . }}
{{- end }}
{{- end }}

{{/*
HTTP requests where metrics are on, because they start no process. Otherwise commands, because the kubelet's own gRPC
probes speak no TLS and reach no unix socket. Neither needs a token. Startup and liveness check the process only;
readiness also checks the store.
*/}}
{{- define "session-notes.live" -}}
{{- if include "session-notes.metricsPort" . -}}
httpGet:
  path: /livez
  port: metrics
{{- else -}}
exec:
  command: [session-notes, health, --service, live]
{{- end }}
timeoutSeconds: 10
{{- end }}

{{- define "session-notes.startup" -}}
{{ include "session-notes.live" . }}
periodSeconds: 2
failureThreshold: 15
{{- end }}

{{- define "session-notes.liveness" -}}
{{ include "session-notes.live" . }}
periodSeconds: 30
failureThreshold: 3
{{- end }}

{{- define "session-notes.readiness" -}}
{{- if include "session-notes.metricsPort" . -}}
httpGet:
  path: /readyz
  port: metrics
{{- else -}}
exec:
  command: [session-notes, health, --service, ready]
{{- end }}
periodSeconds: 10
timeoutSeconds: 10
failureThreshold: 2
{{- end }}
