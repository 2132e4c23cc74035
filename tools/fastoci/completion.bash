# SPDX-License-Identifier: Apache-2.0
# bash completion for fastoci: commands and options as `fastoci --help` lists
# them, names of images from the state directory.
# shellcheck disable=SC2207 # no word of these has a space
_fastoci() {
	# shellcheck disable=SC2034 # set by _init_completion
	local cur prev words cword
	_init_completion || return
	local word command='' i
	for ((i = 1; i < cword; i++)); do
		word=${words[i]}
		case $word in
		--state-dir | --control | --node-config) ((i++)) ;;
		-*) ;;
		*) command=$word; break ;;
		esac
	done
	case $prev in
	--state-dir | --mount | --hosts-dir | --cert-dir) _filedir -d; return ;;
	--control | --node-config | --meta-image | --credentials | --root-ca | --client-cert | --decoder | --cache-device | -o | --output) _filedir; return ;;
	--name | --seconds | --interval | --fail-after-ms | --after-ms | --timeout-ms | -u | --username) return ;;
	esac
	if [[ $cur == -* ]]; then
		[[ $command != seed ]] || command+=" ${words[i + 1]}"
		# shellcheck disable=SC2086 # two words, or one, or none
		COMPREPLY=($(compgen -W "$(fastoci $command --help 2>/dev/null |
			sed -n 's/^  \(-[^ ]*\).*/\1/p' | tr ',' ' ')" -- "$cur"))
		return
	fi
	case $command in
	'')
		COMPREPLY=($(compgen -W "$(fastoci --help 2>/dev/null |
			sed -n '/^[A-Z].*:$/,/^$/s/^  \([a-z]*\)  .*/\1/p')" -- "$cur"))
		;;
	config) COMPREPLY=($(compgen -W check -- "$cur")) ;;
	seed)
		if [[ $prev == seed ]]; then
			COMPREPLY=($(compgen -W 'export import' -- "$cur"))
		else
			_filedir -d
		fi
		;;
	mount | umount | detach | status | pin | unpin | prefetch | fail | hold | events | trace)
		if [[ $command == mount && $prev != mount ]]; then
			_filedir -d
		else
			COMPREPLY=($(compgen -W "$(find /var/lib/fastoci/images -mindepth 1 -maxdepth 1 -printf '%f ' 2>/dev/null)" -- "$cur"))
		fi
		;;
	esac
} && complete -F _fastoci fastoci
