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
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/*
Commands, because the kubelet's own gRPC probes speak no TLS and reach no unix socket. Health needs no token. Startup and
liveness check the process only; readiness also checks the store.
*/}}
{{- define "session-notes.startup" -}}
exec:
  command: [session-notes, health, --service, live]
periodSeconds: 2
timeoutSeconds: 10
failureThreshold: 15
{{- end }}

{{- define "session-notes.liveness" -}}
exec:
  command: [session-notes, health, --service, live]
periodSeconds: 30
timeoutSeconds: 10
failureThreshold: 3
{{- end }}

{{- define "session-notes.readiness" -}}
exec:
  command: [session-notes, health, --service, ready]
periodSeconds: 10
timeoutSeconds: 10
failureThreshold: 2
{{- end }}
