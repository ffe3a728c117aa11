# Completion of flowctl for bash: `source <(flowctl completion bash)`.
_flowctl() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        if [ "$line" = ':files' ]; then
            compopt -o default 2>/dev/null
            return
        fi
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    # A `=` alone is the word, where bash has taken an option apart there.
    if [ "${#COMPREPLY[@]}" -eq 1 ] && [[ ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _flowctl flowctl
