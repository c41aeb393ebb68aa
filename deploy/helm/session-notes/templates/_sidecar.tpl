{{/*
Templates for pods of a chart that depends on this one. Their argument is this chart's scope:
index .Subcharts "session-notes". For the use of each, see deploy/helm/example.
*/}}

{{- define "session-notes.sidecar" -}}
- name: session-notes
  restartPolicy: Always
  {{- include "session-notes.container" . | nindent 2 }}
  volumeMounts:
    {{- include "session-notes.mounts" . | nindent 4 }}
  env:
    {{- if not .Values.settings.SESSION_NOTES_LISTEN }}
    - name: SESSION_NOTES_LISTEN
      value: {{ include "session-notes.socket" . }}
    {{- end }}
    {{- include "session-notes.settings" . | nindent 4 }}
  {{- with include "session-notes.ports" . }}
  ports:
    {{- . | nindent 4 }}
  {{- end }}
  startupProbe:
    {{- include "session-notes.startup" . | nindent 4 }}
  livenessProbe:
    {{- include "session-notes.liveness" . | nindent 4 }}
  {{- if .Values.sidecar.readiness }}
  readinessProbe:
    {{- include "session-notes.readiness" . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* For callers' containers: the target, and the volume with the socket. */}}
{{- define "session-notes.env" -}}
- name: SESSION_NOTES_TARGET
  value: {{ include "session-notes.socket" . }}
{{- end }}

{{- define "session-notes.mount" -}}
- name: session-notes-socket
  mountPath: /run/session-notes
  readOnly: true
{{- end }}

{{- define "session-notes.volumes" -}}
- name: session-notes-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- if not .Values.redis.url }}
- name: session-notes-data
  emptyDir:
    sizeLimit: 1Gi
{{- end }}
{{- with .Values.redis.secret }}
- name: session-notes-redis
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.tokensSecret }}
- name: session-notes-tokens
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
