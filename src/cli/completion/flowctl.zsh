#compdef flowctl
# Completion of flowctl for zsh: `source <(flowctl completion zsh)`, or as `_flowctl` in a folder of
# $fpath.
_flowctl() {
    local line
    local -a answers
    for line in "${(@f)$("${words[1]}" __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == ':files' ]]; then
            _files
            return
        fi
        [[ -n $line ]] && answers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe 'flowctl' answers
}
if [[ ${funcstack[1]} == '_flowctl' ]]; then
    _flowctl "$@"
else
    compdef _flowctl flowctl
fi
