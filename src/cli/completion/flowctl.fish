# Completion of flowctl for fish: flowctl completion fish | source
function __flowctl_complete
    set -l typed (commandline -opc)
    set -l answers ($typed[1] __complete -- $typed[2..-1] (commandline -ct) 2>/dev/null)
    if test "$answers[1]" = ':files'
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $answers
    end
end
complete -c flowctl -f -a '(__flowctl_complete)'
